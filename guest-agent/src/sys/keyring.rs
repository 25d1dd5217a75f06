//! Kernel keyrings.

use std::ffi::CStr;
use std::io;

/// Gives this process a session keyring of its own, so that it doesn't hold its maker's keys.
pub(crate) fn join_session_keyring(name: &CStr) -> io::Result<()> {
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING reads a terminated string, which `name` is.
    match unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
