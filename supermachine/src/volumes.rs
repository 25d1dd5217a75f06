//! Directories and files of the host that a VM shares. Each is mounted in the root directory of the VMM, which has
//! nothing else in it, so that the kernel itself keeps what serves them to the guest from leaving them.

mod root;
mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use mount_tree::{MountAttributes, copy_tree, set_mount_attributes};
use rustix::fs::{FileType, fstat, major, minor};

use crate::error::ErrorKind;

pub(crate) use root::{add, remove};
pub use watch::{Watchable, Watching};

/// What is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name in [`agent_proto::VOLUMES`], which no other of the VM has.
    pub name: String,
    /// Where it is on the host. Symbolic links are followed.
    pub source: PathBuf,
    /// Whether what is mounted below it is shared too.
    pub recursive: bool,
    /// Whether the guest can't change anything.
    pub access: Access,
    /// Whether what the host mounts below it later, or unmounts, is seen.
    pub follows_host: bool,
}

/// What the guest may do with a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// What the host's permissions say.
    #[default]
    Full,
    /// Change only what is mounted below it.
    ReadOnly,
    /// Change nothing.
    ReadOnlyTree,
}

/// Something can't be shared.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It isn't there, or not for us.
    #[error("cannot share {}; does it exist?", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something that has no meaning in another kernel.
    #[error(
        "{} is {kind}, which can't be shared with a virtual machine: share the directory or the regular file that is \
         meant, or name a device with --device",
        path.display()
    )]
    Kind {
        /// Its path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The VMM's root directory doesn't take it.
    #[error("cannot make files appear in the virtual machine")]
    Add(#[source] io::Error),
    /// The VMM's root directory keeps it.
    #[error("cannot take files away from the virtual machine")]
    Remove(#[source] io::Error),
    /// The guest keeps it.
    #[error("the guest doesn't let go of files")]
    Agent(#[source] Box<ttrpc::Error>),
}

impl VolumeError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Open { .. } | Self::Kind { .. } => ErrorKind::InvalidArgument,
            Self::Add(_) | Self::Remove(_) | Self::Agent(_) => ErrorKind::Unavailable,
        }
    }
}

/// Volumes, held as they are now whatever happens to their paths.
#[derive(Debug, Default)]
pub struct Volumes(pub(crate) Vec<Opened>);

#[derive(Debug)]
pub(crate) struct Opened {
    name: String,
    tree: OwnedFd,
    is_directory: bool,
}

impl Volumes {
    /// Takes hold of volumes: of all, or an error names one. Root only.
    pub fn open(volumes: &[Volume]) -> Result<Self, VolumeError> {
        volumes.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Adds others, whose names these don't have.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn open(volume: &Volume) -> Result<Opened, VolumeError> {
    let path = &volume.source;
    let failed = |source| VolumeError::Open { path: path.clone(), source };
    let tree = copy_tree(path, volume.recursive).map_err(failed)?;
    let is_directory = is_directory(&tree, path)?;
    // What the server opens there it only reads and writes.
    let plain = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    let read_only = libc::MOUNT_ATTR_RDONLY;
    // A copy hears of the original's mounts, and the original of the copy's, unless told otherwise.
    let propagation = if volume.follows_host { libc::MS_SLAVE } else { libc::MS_PRIVATE };
    let everywhere = if volume.access == Access::ReadOnlyTree { plain | read_only } else { plain };
    let whole = MountAttributes { set: everywhere, propagation, ..MountAttributes::default() };
    set_mount_attributes(tree.as_fd(), whole, true).map_err(failed)?;
    if volume.access == Access::ReadOnly {
        let top = MountAttributes { set: read_only, ..MountAttributes::default() };
        set_mount_attributes(tree.as_fd(), top, false).map_err(failed)?;
    }
    Ok(Opened { name: volume.name.clone(), tree, is_directory })
}

/// Whether it is a directory; an error if it is what can't be shared.
fn is_directory(tree: &OwnedFd, path: &Path) -> Result<bool, VolumeError> {
    let status = fstat(tree).map_err(|error| VolumeError::Open { path: path.to_owned(), source: error.into() })?;
    let kind = match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => return Ok(true),
        FileType::RegularFile => return Ok(false),
        FileType::CharacterDevice if is_everywhere(status.st_rdev) => return Ok(false),
        FileType::CharacterDevice => "a device of the host",
        FileType::BlockDevice => "a block device",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::Symlink | FileType::Unknown => "no file",
    };
    Err(VolumeError::Kind { path: path.to_owned(), kind })
}

/// Whether it is one of the devices that every kernel has, like `/dev/null` (Linux' devices.txt: major number 1).
fn is_everywhere(device: u64) -> bool {
    major(device) == 1 && [3, 5, 7, 8, 9].contains(&minor(device))
}

#[cfg(test)]
mod tests;
