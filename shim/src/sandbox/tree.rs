//! A root file system that is a directory of the host: held for a VM to share. What another snapshotter made is mounted
//! in a mount namespace that nobody else sees, so that nothing of it is left on the host whatever becomes of this
//! process.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::Builder;

use containerd_shim::mount::mount_rootfs;
use containerd_shim_protos::types::mount::Mount;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use supermachine::{Access, Volume, VolumeError, Volumes};
use thiserror::Error;
use tokio::sync::oneshot;

/// A directory that can't be a root file system.
#[derive(Debug, Error)]
pub(crate) enum TreeError {
    /// It can't be shared.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No namespace to mount in.
    #[error("mount the root file system {path} apart from others")]
    Apart {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its snapshotter's mounts.
    #[error("mount the {kind} that the snapshotter made for {path}")]
    Mount {
        /// The directory.
        path: PathBuf,
        /// Type of the mount.
        kind: String,
        /// What went wrong.
        #[source]
        source: containerd_shim::Error,
    },
}

/// Takes hold of what is at `path` once `mounts` are: a volume with this name.
pub(super) async fn hold(name: String, path: &Path, mounts: &[Mount]) -> Result<Volumes, TreeError> {
    let volume = Volume { name, source: path.to_owned(), recursive: true, access: Access::Full, follows_host: false };
    if mounts.is_empty() {
        return Ok(Volumes::open(&[volume])?);
    }
    let (sender, receiver) = oneshot::channel();
    let mounts = mounts.to_vec();
    let work = move || {
        // Whoever has asked may be gone.
        let _unheard = sender.send(mount_apart(&volume, &mounts));
    };
    let failed = |source| TreeError::Apart { path: path.to_owned(), source };
    Builder::new().name("rootfs".to_owned()).spawn(work).map_err(failed)?;
    receiver.await.unwrap_or_else(|_ended| Err(failed(io::Error::other("the thread that mounts it has ended"))))
}

/// Mounts all in a namespace of this thread's own, which goes with the thread, and takes hold of it there.
fn mount_apart(volume: &Volume, mounts: &[Mount]) -> Result<Volumes, TreeError> {
    let path = &volume.source;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
        .map_err(|error| TreeError::Apart { path: path.clone(), source: error.into() })?;
    for mount in mounts {
        let target = path.join(mount.target.trim_start_matches('/'));
        mount_rootfs(Some(&mount.type_), Some(&mount.source), &mount.options, target)
            .map_err(|source| TreeError::Mount { path: path.clone(), kind: mount.type_.clone(), source })?;
    }
    Ok(Volumes::open(std::slice::from_ref(volume))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use rustix::process::geteuid;

    fn bind(source: &Path) -> Mount {
        Mount {
            type_: "bind".to_owned(),
            source: source.display().to_string(),
            options: vec!["rbind".to_owned(), "rw".to_owned()],
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn what_a_snapshotter_made_is_held_and_nowhere_else() {
        if !geteuid().is_root() {
            return eprintln!("not root: nothing can be mounted");
        }
        let dir = tempfile::tempdir().unwrap();
        let (source, rootfs) = (dir.path().join("source"), dir.path().join("rootfs"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&rootfs).unwrap();
        fs::write(source.join("file"), "").unwrap();
        for (path, mounts) in [(&rootfs, vec![bind(&source)]), (&source, vec![])] {
            let held = hold("c.root".to_owned(), path, &mounts).await.unwrap();
            assert!(!held.is_empty());
        }
        assert_eq!(fs::read_dir(&rootfs).unwrap().count(), 0, "nothing is mounted for others");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        if !geteuid().is_root() {
            return eprintln!("not root: nothing can be mounted");
        }
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = hold("c.root".to_owned(), dir.path(), &[bind(&missing)]).await.unwrap_err();
        assert!(matches!(error, TreeError::Mount { .. }), "{error}");
        let error = hold("c.root".to_owned(), &missing, &[]).await.unwrap_err();
        assert!(error.to_string().contains("missing"), "{error}");
    }
}
