//! Files of the host that a container sees in place of its own.

use std::os::fd::AsFd;
use std::path::PathBuf;

use mount_tree::{MountAttributes, attach, copy_tree, set_mount_attributes};
use serde::{Deserialize, Serialize};

use super::error::{SetupError, Step};
use super::root::{Root, Shape};

/// A file kept outside the container's root, to be bound over a path in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InjectedFile {
    /// Where it is kept, in the guest.
    pub(crate) source: PathBuf,
    /// Where it is seen, in the container.
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
}

/// Binds each file over its target, which is made if it is missing.
pub(crate) fn bind_all(root: &Root, files: &[InjectedFile]) -> Result<(), SetupError> {
    for file in files {
        let tree = copy_tree(&file.source, false).on("open", &file.source)?;
        if file.read_only {
            let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
            set_mount_attributes(tree.as_fd(), read_only, false).on("make read-only", &file.target)?;
        }
        let point = root.mount_point(&file.target, Shape::File).on("make mount point", &file.target)?;
        attach(tree.as_fd(), point.as_fd()).on("bind file over", &file.target)?;
    }
    Ok(())
}
