//! Mounts by descriptor: copied, changed and attached without a path that somebody could exchange (open_tree(2),
//! mount_setattr(2), move_mount(2)). And what the kernel knows their files by.
#![deny(unsafe_code)]

mod sys;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

pub use sys::{FileHandle, MountAttributes, file_handle, set_mount_attributes};

/// A detached copy of what is mounted at `source`, with `recursive` of everything mounted below it too.
pub fn copy_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, source, flags)?)
}

/// Attaches a detached mount on top of an open directory or file.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}
