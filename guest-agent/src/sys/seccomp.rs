//! System call filters.

use std::io;

/// One classic BPF instruction (`struct sock_filter`).
pub(crate) type FilterInstruction = libc::sock_filter;

/// Puts this process under `program` for good. Needs no-new-privileges or `CAP_SYS_ADMIN`.
pub(crate) fn install_filter(program: &[FilterInstruction], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    let argument = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `len` instructions from `filter` and copies them; it writes to neither, and both
    // outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const argument) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
