//! The system calls that no safe library offers.
#![allow(unsafe_code, reason = "this is the crate's one room for it; every block states why it is sound")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What [`set_mount_attributes`] changes: `MOUNT_ATTR_*` bits to set and to clear, and a propagation type
/// (`MS_SHARED`, `MS_PRIVATE`, `MS_SLAVE`, `MS_UNBINDABLE`; 0 leaves it).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttributes {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// Propagation type, or 0.
    pub propagation: u64,
}

/// Changes the mount that `mount` is the root of, and with `recursive` every mount below it.
pub fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: MountAttributes, recursive: bool) -> io::Result<()> {
    let argument = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated empty string, `argument` is a `mount_attr` of the size passed; both outlive
    // the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const argument,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What the kernel knows a file by, on its file system, as long as it exists (name_to_handle_at(2)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// What kind of name it is.
    pub kind: i32,
    /// The name.
    pub bytes: Vec<u8>,
}

/// `struct file_handle` with as much room as a handle can take.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; libc::MAX_HANDLE_SZ as usize],
}

/// What the kernel knows an open file by; `ErrorKind::Unsupported` if the file system has no such names.
pub fn file_handle(file: BorrowedFd<'_>) -> io::Result<FileHandle> {
    let mut raw = RawHandle { bytes: libc::MAX_HANDLE_SZ as u32, kind: 0, handle: [0; libc::MAX_HANDLE_SZ as usize] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path is a terminated empty string; `raw` begins as a `file_handle` does and has the room that its first
    // field states; all outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            file.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    let bytes = raw.handle.get(..raw.bytes as usize).unwrap_or_default().to_vec();
    Ok(FileHandle { kind: raw.kind, bytes })
}
