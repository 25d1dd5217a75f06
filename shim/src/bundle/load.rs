//! Reads `config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Spec};
use supermachine::Network;

use super::BundleError;

/// A bundle as containerd wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// Its specification, which has a process.
    pub(crate) spec: Spec,
    /// Whether whoever called has put the root file system together, and goes on changing it, the files that the
    /// container has bound into it, and the network, as Docker does.
    pub(crate) is_live: bool,
}

impl Bundle {
    /// Reads and checks the bundle in a directory.
    pub(crate) fn load(path: &Path) -> Result<Self, BundleError> {
        let config = path.join("config.json");
        let text = fs::read(&config).map_err(|source| BundleError::Read { path: config.clone(), source })?;
        let spec: Spec =
            serde_json::from_slice(&text).map_err(|source| BundleError::Parse { path: config.clone(), source })?;
        if spec.process().is_none() {
            return Err(BundleError::Missing { path: config, field: "process" });
        }
        Ok(Self { path: path.to_owned(), spec, is_live: false })
    }

    /// The root file system's place on the host: where something is mounted if the request carries no mounts.
    pub(crate) fn rootfs(&self) -> PathBuf {
        match self.spec.root() {
            Some(root) => self.path.join(root.path()),
            None => self.path.join("rootfs"),
        }
    }

    /// The program that the container runs, by path or by name. Its other arguments are for nobody else.
    pub(crate) fn program(&self) -> Option<String> {
        self.spec.process().as_ref()?.args().as_ref()?.first().cloned()
    }

    /// The resources that the host limits.
    pub(crate) fn host_resources(&self) -> LinuxResources {
        let resources = self.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        resources.map(super::resources::of_host).unwrap_or_default()
    }

    /// The network on the host's side: of the namespace that is named by path, or a new one; without an entry the
    /// host's own.
    pub(crate) fn network(&self) -> Result<Network, BundleError> {
        let namespaces = self.spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
        let mut networks = namespaces.filter(|namespace| namespace.typ() == LinuxNamespaceType::Network);
        match networks.next().map(|network| network.path().as_ref().filter(|path| !path.as_os_str().is_empty())) {
            None => Err(BundleError::HostNetwork),
            Some(None) => Ok(Network::New),
            Some(Some(path)) => Ok(Network::Of(path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(spec: &serde_json::Value) -> (tempfile::TempDir, Result<Bundle, BundleError>) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        let bundle = Bundle::load(dir.path());
        (dir, bundle)
    }

    #[test]
    fn network_is_named_or_new_and_never_the_hosts() {
        let spec = |namespaces| {
            serde_json::json!({
                "ociVersion": "1.2.0",
                "root": {"path": "rootfs"},
                "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
                "linux": {"namespaces": namespaces}
            })
        };
        let (dir, loaded) = bundle(&spec(serde_json::json!([{"type": "pid"}, {"type": "network", "path": "/ns/a"}])));
        let loaded = loaded.unwrap();
        assert_eq!(loaded.network().unwrap(), Network::Of("/ns/a".into()));
        assert_eq!(loaded.rootfs(), dir.path().join("rootfs"));
        assert_eq!(loaded.program().as_deref(), Some("true"));
        for new in [serde_json::json!([{"type": "network"}]), serde_json::json!([{"type": "network", "path": ""}])] {
            assert_eq!(bundle(&spec(new)).1.unwrap().network().unwrap(), Network::New);
        }
        for host in [serde_json::json!([{"type": "pid"}]), serde_json::json!(null)] {
            assert!(matches!(bundle(&spec(host)).1.unwrap().network(), Err(BundleError::HostNetwork)));
        }
    }

    #[test]
    fn broken_bundles_name_the_file_and_field() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Bundle::load(dir.path()), Err(BundleError::Read { .. })));
        let (_dir, loaded) = bundle(&serde_json::json!({"ociVersion": "1.2.0"}));
        assert!(matches!(loaded, Err(BundleError::Missing { field: "process", .. })));
        let (_dir, loaded) = bundle(&serde_json::json!({"ociVersion": 1}));
        assert!(matches!(loaded, Err(BundleError::Parse { .. })));
    }
}
