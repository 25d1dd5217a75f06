//! Bind mounts: each names a volume that the VM is to share, but for the files by which runtimes tell a container who
//! and where it is. Those travel by content, as most containers have nothing else of the host.

use std::path::Path;

use agent_proto::{File, SOCKETS, Socket, VOLUMES};
use oci_spec::runtime::{Mount, Spec};
use supermachine::{Access, Volume};

use crate::bundle::BundleError;
use crate::bundle::files::Allowance;

/// Destinations whose files travel by content if they are small.
const CARRIED: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// What a specification's bind mounts bring.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    /// Files that travel by content.
    pub(crate) files: Vec<File>,
    /// What is shared.
    pub(crate) volumes: Vec<Volume>,
}

/// Turns the bind mounts of container `id` to where the guest has what they name: volumes, or likenesses of sockets.
/// Those of a live bundle are all volumes, which change with the host's files.
pub(super) fn bind(spec: &mut Spec, id: &str, is_live: bool, sockets: &[Socket]) -> Result<Bound, BundleError> {
    let mut bound = Bound::default();
    let Some(mounts) = spec.mounts_mut() else { return Ok(bound) };
    let mut allowance = Allowance::default();
    let mut left = Vec::with_capacity(mounts.len());
    for (index, mut mount) in std::mem::take(mounts).into_iter().enumerate() {
        if is_bind(&mount) {
            if !is_live && let Some(file) = carry(&mount, &mut allowance)? {
                bound.files.push(file);
                continue;
            }
            let volume = volume(&mount, format!("{id}.{index}"))?;
            let is_socket = sockets.iter().any(|socket| socket.name == volume.name);
            mount.set_source(Some(Path::new(if is_socket { SOCKETS } else { VOLUMES }).join(&volume.name)));
            if !is_socket {
                bound.volumes.push(volume);
            }
        }
        left.push(mount);
    }
    *mounts = left;
    Ok(bound)
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind") || has_option(mount, "bind") || has_option(mount, "rbind")
}

fn has_option(mount: &Mount, name: &str) -> bool {
    mount.options().as_ref().is_some_and(|options| options.iter().any(|option| option == name))
}

fn source(mount: &Mount) -> Result<&Path, BundleError> {
    mount.source().as_deref().ok_or_else(|| BundleError::NoSource { destination: mount.destination().clone() })
}

/// The file that a mount is about, if it is one that travels by content.
fn carry(mount: &Mount, allowance: &mut Allowance) -> Result<Option<File>, BundleError> {
    let destination = mount.destination();
    if !CARRIED.iter().any(|carried| destination == Path::new(carried)) {
        return Ok(None);
    }
    let source = source(mount)?;
    let read = allowance.read(source).map_err(|error| BundleError::Read { path: source.to_owned(), source: error })?;
    Ok(read.map(|(content, mode)| File {
        path: destination.display().to_string(),
        mode,
        content,
        read_only: has_option(mount, "ro") || has_option(mount, "rro"),
        ..Default::default()
    }))
}

fn volume(mount: &Mount, name: String) -> Result<Volume, BundleError> {
    if let Some(option) = ["shared", "rshared"].into_iter().find(|option| has_option(mount, option)) {
        return Err(BundleError::Propagation { destination: mount.destination().clone(), option });
    }
    let access = if has_option(mount, "rro") {
        Access::ReadOnlyTree
    } else if has_option(mount, "ro") {
        Access::ReadOnly
    } else {
        Access::Full
    };
    Ok(Volume {
        name,
        source: source(mount)?.to_owned(),
        recursive: has_option(mount, "rbind"),
        access,
        follows_host: has_option(mount, "slave") || has_option(mount, "rslave"),
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
    fn files_of_the_runtime_are_carried_and_other_mounts_stay() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("resolv.conf");
        fs::write(&source, "nameserver 192.0.2.1\n").unwrap();
        let mut spec = spec(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/resolv.conf", "type": "bind", "source": source, "options": ["rbind", "ro"]},
            {"destination": "/etc/hosts", "source": source, "options": ["bind", "rro"]},
            {"destination": "/etc/hostname", "source": source, "options": ["bind"]}
        ]));
        let Bound { files, volumes } = bind(&mut spec, "c", false, &[]).unwrap();
        let seen: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.read_only)).collect();
        assert_eq!(seen, [("/etc/resolv.conf", true), ("/etc/hosts", true), ("/etc/hostname", false)]);
        assert_eq!(files[0].content, b"nameserver 192.0.2.1\n");
        assert_eq!(volumes, []);
        let left = spec.mounts().as_ref().unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].destination(), Path::new("/proc"));
    }

    #[test]
    fn whatever_changes_is_a_volume() {
        let mut spec = spec(&serde_json::json!([
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["rbind"]}
        ]));
        let Bound { files, volumes } = bind(&mut spec, "c", true, &[]).unwrap();
        assert_eq!((files.len(), volumes.len()), (0, 1));
    }

    #[test]
    fn anything_else_is_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let big = dir.path().join("big");
        fs::write(&big, vec![0; 2 << 20]).unwrap();
        let mut spec = spec(&serde_json::json!([
            {"destination": "/data", "source": "/srv", "options": ["rbind", "rw", "rprivate"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/resolv.conf", "source": big, "options": ["bind", "ro", "rslave"]},
            {"destination": "/small", "type": "bind", "source": "/etc/hostname", "options": ["rbind", "rro"]}
        ]));
        let Bound { files, volumes } = bind(&mut spec, "c", false, &[]).unwrap();
        assert!(files.is_empty());
        let seen: Vec<_> = volumes
            .iter()
            .map(|volume| (volume.name.as_str(), volume.recursive, volume.access, volume.follows_host))
            .collect();
        let expected = [
            ("c.0", true, Access::Full, false),
            ("c.2", false, Access::ReadOnly, true),
            ("c.3", true, Access::ReadOnlyTree, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!((volumes[0].source.as_path(), volumes[1].source.as_path()), (Path::new("/srv"), big.as_path()));
        let sources: Vec<_> = spec.mounts().iter().flatten().map(|mount| mount.source().clone().unwrap()).collect();
        let volumes = |name| Path::new(VOLUMES).join(name);
        assert_eq!(sources, [volumes("c.0"), "proc".into(), volumes("c.2"), volumes("c.3")]);
    }

    #[test]
    fn sockets_are_bound_from_where_their_likenesses_are() {
        let mut spec = spec(&serde_json::json!([
            {"destination": "/data", "source": "/srv", "options": ["rbind"]},
            {"destination": "/run/docker.sock", "source": "/run/docker.sock", "options": ["rbind", "ro"]}
        ]));
        let sockets = [Socket { name: "c.1".into(), ..Default::default() }];
        let Bound { volumes, .. } = bind(&mut spec, "c", false, &sockets).unwrap();
        assert_eq!(volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(), ["c.0"]);
        let mount = &spec.mounts().as_ref().unwrap()[1];
        assert_eq!(mount.source().as_deref(), Some(Path::new("/run/supermachine/sockets/c.1")));
        assert_eq!(mount.options().as_ref().unwrap(), &["rbind", "ro"]);
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let propagated =
            serde_json::json!([{"destination": "/data", "source": "/srv", "options": ["rbind", "rshared"]}]);
        let error = bind(&mut spec(&propagated), "c", false, &[]);
        assert!(matches!(error, Err(BundleError::Propagation { option: "rshared", .. })));
        let error = bind(&mut spec(&serde_json::json!([{"destination": "/data", "type": "bind"}])), "c", false, &[]);
        assert!(matches!(error, Err(BundleError::NoSource { .. })));
    }
}
