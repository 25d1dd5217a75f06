//! Namespaces: the guest has its own, so none of the host's can be joined there, but those of a container that shares the
//! VM can.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use crate::bundle::BundleError;

/// The first container of a group, for those that join its VM. On the host, all of them have the VMM's process id, and
/// a namespace of `/proc/<VMM>/ns` stands for the first one's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbour {
    /// Process id of the VMM, on the host.
    pub(crate) vmm: u32,
    /// Process id of the container's init, in the guest. None if it has ended.
    pub(crate) init: Option<u32>,
    /// Whether no other container has process ids of its own, so that it is clear whose are meant.
    pub(crate) is_alone_with_pids: bool,
}

/// Leaves new namespaces for the agent to make, except the network's of a VM's first container: the VM's network is the
/// container's, whose host side the VMM enters. Those that are given by path must be the neighbour's.
pub(super) fn localise(spec: &mut Spec, neighbour: Option<Neighbour>) -> Result<(), BundleError> {
    let listed = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    let mut none = Vec::new();
    let namespaces = listed.unwrap_or(&mut none);
    if let Some(neighbour) = neighbour {
        neighbour.check_network(namespaces)?;
    }
    let is_vm_s = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Network && (neighbour.is_none() || path_of(namespace).is_some())
    };
    namespaces.retain(|namespace| !is_vm_s(namespace));
    for namespace in namespaces {
        let Some(path) = path_of(namespace).map(Path::to_owned) else { continue };
        let kind = namespace.typ();
        let there = neighbour.and_then(|neighbour| neighbour.in_guest(kind, &path)).transpose()?;
        let Some(there) = there else { return Err(BundleError::HostNamespace { kind: kind.to_string(), path }) };
        namespace.set_path(Some(there));
    }
    Ok(())
}

/// Whether a container's process ids are its own.
pub(crate) fn is_pid_namespace_own(spec: &Spec) -> bool {
    let mut namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces.any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && path_of(namespace).is_none())
}

impl Neighbour {
    /// Where the guest has the namespace that is the neighbour's on the host. None if it isn't.
    fn in_guest(self, kind: LinuxNamespaceType, path: &Path) -> Option<Result<PathBuf, BundleError>> {
        if path != Path::new(&format!("/proc/{}/ns/{kind}", self.vmm)) {
            return None;
        }
        if kind == LinuxNamespaceType::Pid && !self.is_alone_with_pids {
            return Some(Err(BundleError::AmbiguousNamespace { path: path.to_owned() }));
        }
        let Some(init) = self.init else { return Some(Err(BundleError::NeighbourEnded { path: path.to_owned() })) };
        Some(Ok(format!("/proc/{init}/ns/{kind}").into()))
    }

    /// A network is the VM's, which is there already, or one that is made in the guest.
    fn check_network(self, namespaces: &[LinuxNamespace]) -> Result<(), BundleError> {
        let network = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        let path = match network.map(path_of) {
            Some(None) => return Ok(()),
            Some(Some(path)) => path,
            None => return Err(BundleError::HostNetwork),
        };
        let of_vm = PathBuf::from(format!("/proc/{}/ns/net", self.vmm));
        let id = |path: &Path| {
            let metadata = fs::metadata(path).map_err(|source| BundleError::Read { path: path.to_owned(), source })?;
            Ok((metadata.dev(), metadata.ino()))
        };
        if id(path)? == id(&of_vm)? { Ok(()) } else { Err(BundleError::OtherNetwork { path: path.to_owned() }) }
    }
}

fn path_of(namespace: &LinuxNamespace) -> Option<&Path> {
    namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "linux": {"namespaces": namespaces}})).unwrap()
    }

    fn localised(
        namespaces: &serde_json::Value,
        neighbour: Option<Neighbour>,
    ) -> Result<serde_json::Value, BundleError> {
        let mut spec = spec(namespaces);
        localise(&mut spec, neighbour)?;
        Ok(serde_json::to_value(&spec).unwrap()["linux"]["namespaces"].take())
    }

    /// One whose VMM is this process.
    fn neighbour() -> Neighbour {
        Neighbour { vmm: std::process::id(), init: Some(77), is_alone_with_pids: true }
    }

    #[test]
    fn network_is_left_out_and_new_ones_stay() {
        let namespaces = serde_json::json!([{"type": "pid"}, {"type": "network", "path": "/ns"}, {"type": "ipc"}]);
        let left = localised(&namespaces, None).unwrap();
        assert_eq!(left, serde_json::json!([{"type": "pid"}, {"type": "ipc"}]));
    }

    #[test]
    fn host_namespace_is_refused_by_name() {
        let namespaces = serde_json::json!([{"type": "network"}, {"type": "ipc", "path": "/proc/7/ns/ipc"}]);
        for neighbour in [None, Some(neighbour())] {
            let text = localised(&namespaces, neighbour).unwrap_err().to_string();
            assert!(text.contains("ipc namespace /proc/7/ns/ipc") && text.contains("--ipc"), "{text}");
        }
    }

    #[test]
    fn a_neighbour_s_namespaces_are_found_in_the_guest() {
        let pid = std::process::id();
        let path = |kind| format!("/proc/{pid}/ns/{kind}");
        let namespaces = serde_json::json!([
            {"type": "pid", "path": path("pid")}, {"type": "uts", "path": path("uts")}, {"type": "ipc", "path": path("ipc")},
            {"type": "network", "path": path("net")}, {"type": "mount"}
        ]);
        let expected = serde_json::json!([
            {"type": "pid", "path": "/proc/77/ns/pid"}, {"type": "uts", "path": "/proc/77/ns/uts"},
            {"type": "ipc", "path": "/proc/77/ns/ipc"}, {"type": "mount"}
        ]);
        assert_eq!(localised(&namespaces, Some(neighbour())).unwrap(), expected);
        let unclear = Neighbour { is_alone_with_pids: false, ..neighbour() };
        assert!(matches!(localised(&namespaces, Some(unclear)), Err(BundleError::AmbiguousNamespace { .. })));
        let ended = Neighbour { init: None, ..neighbour() };
        assert!(matches!(localised(&namespaces, Some(ended)), Err(BundleError::NeighbourEnded { .. })));
    }

    #[test]
    fn a_neighbour_s_network_is_the_vm_s_or_a_new_one_in_the_guest() {
        let new = serde_json::json!([{"type": "network"}, {"type": "mount"}]);
        assert_eq!(localised(&new, Some(neighbour())).unwrap(), new);
        assert!(matches!(localised(&serde_json::json!([]), Some(neighbour())), Err(BundleError::HostNetwork)));
        let other = serde_json::json!([{"type": "network", "path": "/proc/self/ns/mnt"}]);
        let text = localised(&other, Some(neighbour())).unwrap_err().to_string();
        assert!(text.contains("/proc/self/ns/mnt"), "{text}");
        let gone = serde_json::json!([{"type": "network", "path": "/nonexistent"}]);
        assert!(matches!(localised(&gone, Some(neighbour())), Err(BundleError::Read { .. })));
    }

    #[test]
    fn process_ids_are_own_shared_or_the_guest_s() {
        let is_own = |namespaces| is_pid_namespace_own(&spec(&namespaces));
        assert!(is_own(serde_json::json!([{"type": "ipc"}, {"type": "pid"}])));
        assert!(!is_own(serde_json::json!([{"type": "pid", "path": "/proc/7/ns/pid"}])));
        assert!(!is_own(serde_json::json!([{"type": "ipc"}])));
    }
}
