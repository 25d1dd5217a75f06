//! `-info`: describes the runtime to containerd before any container exists.

use std::io::Write as _;

use agent_proto::{MOUNT_OPTIONS, NAMESPACES};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message as _};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use thiserror::Error;

use crate::RUNTIME_NAME;

/// Why the description could not be given.
#[derive(Debug, Error)]
pub(crate) enum InfoError {
    /// The message could not be encoded.
    #[error("encode the runtime description")]
    Encode(#[source] protobuf::Error),
    /// Standard output is gone.
    #[error("write the runtime description")]
    Write(#[source] std::io::Error),
}

/// The name that containerd's clients know the OCI features document by.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
/// Hooks of a container, all of which run on the host.
const HOOKS: &[&str] = &["prestart", "createRuntime", "poststart", "poststop"];

/// Types of mounts that containerd (2.2 and later) leaves to the shim, by this annotation.
const MOUNTS: (&str, &str) = ("containerd.io/runtime-allow-mounts", "mkdir/*,format/*,erofs");

/// Prints a `RuntimeInfo`. The runtime options on standard input change nothing in it, so they stay unread.
pub(crate) fn run() -> Result<(), InfoError> {
    let bytes = describe().write_to_bytes().map_err(InfoError::Encode)?;
    std::io::stdout().write_all(&bytes).map_err(InfoError::Write)
}

fn describe() -> RuntimeInfo {
    RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: Some(RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() }).into(),
        features: Some(Any { type_url: FEATURES.to_owned(), value: features().into_bytes(), ..Default::default() })
            .into(),
        annotations: [(MOUNTS.0.to_owned(), MOUNTS.1.to_owned())].into(),
        ..Default::default()
    }
}

/// What is asked for in a specification and understood, as the OCI features document.
fn features() -> String {
    let features = serde_json::json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": oci_spec::runtime::VERSION,
        "hooks": HOOKS,
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES,
            "cgroup": {"v1": false, "v2": true, "systemd": true},
            "seccomp": {"enabled": true},
        },
    });
    features.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_an_oci_document() {
        let info = describe();
        assert!(info.annotations[MOUNTS.0].contains("erofs"));
        let features: oci_spec::runtime::Features = serde_json::from_slice(&info.features.value).unwrap();
        assert!(features.mount_options().as_ref().unwrap().contains(&"rro".to_owned()));
        assert_eq!(features.linux().as_ref().unwrap().namespaces().as_ref().unwrap().len(), NAMESPACES.len());
    }
}
