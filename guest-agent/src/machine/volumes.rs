//! Files of the host, which the machine's file system device serves: mounted once, when the first container has some.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_proto::VOLUMES;
use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tokio::sync::Mutex;

use super::rootfs::is_plain;
use crate::refusal::{Kind, Refusal};

/// How far ahead of a reader the kernel reads: as much as it asks for at once (the server's limit is 1 MiB). Its own
/// choice is for disks, which answer sooner than a host.
const READ_AHEAD_KIB: u32 = 1024;
/// By which the device is known.
const TAG: &str = "volumes";

/// The host's files can't be had, or not be let go.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumesError {
    /// They don't appear.
    #[error("mount the host's files: {0}")]
    Mount(#[source] std::io::Error),
    /// What is to be released isn't one of them.
    #[error("names: {name:?} is no name of a volume")]
    Name { name: String },
    /// The kernel keeps one.
    #[error("unmount {}: {source}", path.display())]
    Unmount {
        path: PathBuf,
        #[source]
        source: Errno,
    },
}

impl From<VolumesError> for Refusal {
    fn from(error: VolumesError) -> Self {
        let kind = match error {
            VolumesError::Name { .. } => Kind::InvalidArgument,
            VolumesError::Mount(_) | VolumesError::Unmount { .. } => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// Whether they are mounted.
#[derive(Debug, Default)]
pub(super) struct Volumes(Mutex<bool>);

impl Volumes {
    /// Mounts them if they aren't, and enters those that are new.
    pub(super) async fn mount(&self) -> Result<(), VolumesError> {
        let mut is_mounted = self.0.lock().await;
        let is_first = !*is_mounted;
        // Waits for the host's answer.
        let mounted = tokio::task::spawn_blocking(move || {
            if is_first {
                mount_all()?;
            }
            enter_all()
        });
        mounted.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(VolumesError::Mount)?;
        *is_mounted = true;
        Ok(())
    }
}

fn mount_all() -> std::io::Result<()> {
    fs::create_dir_all(VOLUMES)?;
    mount(TAG, VOLUMES, "virtiofs", MountFlags::empty(), None)?;
    // All that is mounted within it has the same.
    let device = fs::metadata(VOLUMES)?.dev();
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    fs::write(setting, READ_AHEAD_KIB.to_string())
}

/// Enters every directory, which becomes a file system of its own where it is first entered. That is to be here: from
/// here containers take it over with their mount namespaces, and the kernel tells their programs only of what is done in
/// the one that they have.
fn enter_all() -> std::io::Result<()> {
    for volume in fs::read_dir(VOLUMES)? {
        // A file, or one that its container's mount will fail of too.
        let _not_entered = fs::metadata(volume?.path().join("."));
    }
    Ok(())
}

/// Lets go of volumes. Each directory is a file system of its own, mounted when it was first looked at.
pub(super) fn release(names: &[String]) -> Result<(), VolumesError> {
    for name in names {
        if !is_plain(name) {
            return Err(VolumesError::Name { name: name.clone() });
        }
        let path = Path::new(VOLUMES).join(name);
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // A file, or one that nobody has looked at.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(source) => return Err(VolumesError::Unmount { path, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_released() {
        for name in ["", "..", ".", "/etc", "a/b"] {
            assert!(matches!(release(&[name.to_owned()]), Err(VolumesError::Name { .. })), "{name:?}");
        }
        release(&["a-name-that-nothing-has".to_owned()]).unwrap();
    }
}
