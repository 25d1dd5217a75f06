//! Namespaces: the guest has its own, so none of the host's can be joined there.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use crate::bundle::BundleError;

/// Leaves new namespaces for the agent to make, except the network's: the VM's network is the container's, whose host
/// side the VMM enters. Any other namespace given by path is refused.
pub(super) fn localise(spec: &mut Spec) -> Result<(), BundleError> {
    let Some(namespaces) = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut()) else {
        return Ok(());
    };
    namespaces.retain(|namespace| namespace.typ() != LinuxNamespaceType::Network);
    let by_path = |path: &std::path::PathBuf| !path.as_os_str().is_empty();
    match namespaces.iter().find_map(|ns| Some((ns.typ(), ns.path().clone().filter(by_path)?))) {
        Some((typ, path)) => Err(BundleError::HostNamespace { kind: typ.to_string(), path }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "linux": {"namespaces": namespaces}})).unwrap()
    }

    #[test]
    fn network_is_left_out_and_new_ones_stay() {
        let mut spec = spec(&serde_json::json!([{"type": "pid"}, {"type": "network", "path": "/ns"}, {"type": "ipc"}]));
        localise(&mut spec).unwrap();
        let left = serde_json::to_value(&spec).unwrap();
        assert_eq!(left["linux"]["namespaces"], serde_json::json!([{"type": "pid"}, {"type": "ipc"}]));
    }

    #[test]
    fn host_namespace_is_refused_by_name() {
        let error = localise(&mut spec(&serde_json::json!([{"type": "ipc", "path": "/proc/7/ns/ipc"}]))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ipc namespace /proc/7/ns/ipc") && text.contains("--ipc"), "{text}");
    }
}
