//! System calls that move bytes between files and guest memory, and guest memory as a library wants it. The only unsafe
//! room of this crate.
//!
//! Guest memory must never be seen as a Rust slice: the guest may change it at any time. `vm-memory` has volatile
//! reads and writes for files, but only at the file's own position and one buffer at a time. A disk needs an offset
//! (the position is shared by whoever else holds the open file) and a socket needs "don't block" per call, so the
//! five calls are made here, all with the same shape.
#![allow(unsafe_code, reason = "the buffers are guest memory, which only system calls may touch")]

mod view;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

pub(crate) use view::View;

/// Most buffers that one call takes; a caller with more loops, as it does for any short transfer.
const BATCH: usize = 64;

/// Reads at `offset` of a file into guest memory; returns the bytes read, 0 at the end of the file.
pub(crate) fn read_at(file: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    with_vectors(buffers, usize::MAX, |vectors, count| {
        // SAFETY: `vectors` points to `count` iovecs of `with_vectors`, which are valid for writes of their lengths
        // for the duration of the call; the descriptor is open while it is borrowed.
        unsafe { libc::preadv(file.as_raw_fd(), vectors, count, offset) }
    })
}

/// Writes guest memory at `offset` of a file; returns the bytes written.
pub(crate) fn write_at(file: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<usize> {
    let offset = file_offset(offset)?;
    with_vectors(buffers, usize::MAX, |vectors, count| {
        // SAFETY: as in `read_at`; the kernel only reads the buffers.
        unsafe { libc::pwritev(file.as_raw_fd(), vectors, count, offset) }
    })
}

/// Receives up to `limit` bytes from a stream socket into guest memory without blocking; 0 is end of file.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>], limit: usize) -> io::Result<usize> {
    with_vectors(buffers, limit, |vectors, count| {
        let mut message = message_header(vectors, count);
        // SAFETY: `message` refers to nothing but the iovecs, which are valid as in `read_at`.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) }
    })
}

/// Sends guest memory to a stream socket without blocking and without raising SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    with_vectors(buffers, usize::MAX, |vectors, count| {
        let message = message_header(vectors, count);
        // SAFETY: as in `receive`; the kernel only reads the buffers.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
    })
}

/// Writes guest memory to a device that takes what one call brings as one message. More than [`BATCH`] buffers, of
/// which only the first would be written, are refused.
pub(crate) fn write(device: BorrowedFd<'_>, buffers: &[VolatileSlice<'_>]) -> io::Result<usize> {
    if buffers.len() > BATCH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    with_vectors(buffers, usize::MAX, |vectors, count| {
        // SAFETY: as in `read_at`; the kernel only reads the buffers.
        unsafe { libc::writev(device.as_raw_fd(), vectors, count) }
    })
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).ok().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A message of these buffers alone: no address, no ancillary data.
fn message_header(vectors: *const libc::iovec, count: libc::c_int) -> libc::msghdr {
    libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: vectors.cast_mut(),
        msg_iovlen: count as usize,
        msg_control: std::ptr::null_mut(),
        msg_controllen: 0,
        msg_flags: 0,
    }
}

/// Calls `transfer` with iovecs for the first [`BATCH`] buffers, `limit` bytes at most, again when a signal
/// interrupted it.
fn with_vectors(
    buffers: &[VolatileSlice<'_>],
    limit: usize,
    transfer: impl Fn(*const libc::iovec, libc::c_int) -> isize,
) -> io::Result<usize> {
    let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
    let mut count = 0;
    let mut left = limit;
    for (vector, buffer) in vectors.iter_mut().zip(buffers) {
        // Memory without a guard of its own (`backend-mmap`) stays mapped as long as the slice lives.
        *vector = libc::iovec { iov_base: buffer.ptr_guard_mut().as_ptr().cast(), iov_len: buffer.len().min(left) };
        left = left.saturating_sub(buffer.len());
        count += 1;
    }
    loop {
        match usize::try_from(transfer(vectors.as_ptr(), count)) {
            Ok(bytes) => return Ok(bytes),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}
