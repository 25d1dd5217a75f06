//! Bind mounts of host files: small regular files travel by content, anything else is refused.

use std::path::Path;

use agent_proto::File;
use oci_spec::runtime::{Mount, Spec};

use crate::bundle::BundleError;
use crate::bundle::files::{Allowance, LIMIT_BYTES};

/// Takes the bind mounts out of the specification and reads what they name.
pub(super) fn carry(spec: &mut Spec) -> Result<Vec<File>, BundleError> {
    let Some(mounts) = spec.mounts_mut() else { return Ok(Vec::new()) };
    let mut allowance = Allowance::default();
    mounts.extract_if(.., |mount| is_bind(mount)).map(|mount| read(&mount, &mut allowance)).collect()
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, "bind") || has_option(mount, "rbind")
}

fn has_option(mount: &Mount, name: &str) -> bool {
    mount.options().as_ref().is_some_and(|options| options.iter().any(|option| option == name))
}

fn read(mount: &Mount, allowance: &mut Allowance) -> Result<File, BundleError> {
    let destination = mount.destination();
    let source: &Path =
        mount.source().as_deref().ok_or_else(|| BundleError::NoSource { destination: destination.clone() })?;
    let read = allowance.read(source).map_err(|error| BundleError::Read { path: source.to_owned(), source: error })?;
    let (content, mode) = read.ok_or_else(|| BundleError::Volume {
        destination: destination.clone(),
        source_path: source.to_owned(),
        limit: LIMIT_BYTES,
    })?;
    Ok(File {
        path: destination.display().to_string(),
        mode,
        content,
        read_only: has_option(mount, "ro") || has_option(mount, "rro"),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn spec(mounts: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({"ociVersion": "1.2.0", "mounts": mounts})).unwrap()
    }

    #[test]
    fn small_file_is_carried_and_other_mounts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("resolv.conf");
        fs::write(&source, "nameserver 192.0.2.1\n").unwrap();
        let mut spec = spec(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/resolv.conf", "type": "bind", "source": source, "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "source": source, "options": ["bind", "rro"]},
            {"destination": "/etc/hostname", "source": source, "options": ["bind"]}
        ]));
        let files = carry(&mut spec).unwrap();
        let seen: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.read_only)).collect();
        assert_eq!(seen, [("/etc/resolv.conf", true), ("/etc/hosts", true), ("/etc/hostname", false)]);
        assert_eq!(files[0].content, b"nameserver 192.0.2.1\n");
        let left = spec.mounts().as_ref().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].destination(), Path::new("/proc"));
    }

    #[test]
    fn directory_and_missing_source_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = carry(&mut spec(&serde_json::json!([
            {"destination": "/data", "source": dir.path(), "options": ["bind"]}
        ])));
        assert!(matches!(error, Err(BundleError::Volume { destination, .. }) if destination == Path::new("/data")));
        let error = carry(&mut spec(&serde_json::json!([
            {"destination": "/data", "source": dir.path().join("missing"), "options": ["bind"]}
        ])));
        assert!(matches!(error, Err(BundleError::Read { .. })));
        let error = carry(&mut spec(&serde_json::json!([{"destination": "/data", "type": "bind"}])));
        assert!(matches!(error, Err(BundleError::NoSource { .. })));
    }
}
