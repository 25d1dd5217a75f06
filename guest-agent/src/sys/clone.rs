//! Making processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `CLONE_INTO_CGROUP` of `linux/sched.h`, a flag of clone3 alone: it doesn't fit the type of the others.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`fork`] this is.
pub(crate) enum Forked {
    Parent,
    Child,
}

/// Duplicates this process. Only legal while it has a single thread.
pub(crate) fn fork() -> io::Result<Forked> {
    // SAFETY: the caller runs before any thread exists so the child starts with
    // every lock free and may go on as an ordinary process.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        _child => Ok(Forked::Parent),
    }
}

/// How [`clone_sibling`] makes the new process.
pub(crate) struct CloneRequest<'a> {
    /// `CLONE_NEW*` flags: namespaces the new process starts in.
    pub(crate) namespaces: u64,
    /// The cgroup it is born in.
    pub(crate) cgroup: BorrowedFd<'a>,
}

/// Which side of a [`clone_sibling`] this is.
pub(crate) enum Child {
    /// The caller: the new process's id in the caller's namespace, and a handle that survives reuse of that id.
    Born { pid: i32, handle: OwnedFd },
    /// The new process.
    Myself,
}

/// Makes a process whose parent is the caller's parent (`CLONE_PARENT`), so that process 1 reaps it.
pub(crate) fn clone_sibling(request: &CloneRequest<'_>) -> io::Result<Child> {
    let mut handle: libc::c_int = -1;
    // SAFETY: `clone_args` is plain data for which all zeroes is a valid value.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = request.namespaces | (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
    arguments.pidfd = &raw mut handle as u64;
    arguments.cgroup = u64::try_from(request.cgroup.as_raw_fd()).unwrap_or(u64::MAX);
    // SAFETY: `arguments` outlives the call and has the size passed; without CLONE_VM the child gets a copy of this
    // address space and, with no stack given, goes on from here on its copy of this stack. The zygote has one thread,
    // so no lock is held by a thread that doesn't exist in the child.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Child::Myself),
        // SAFETY: the kernel stored a fresh descriptor in `handle` before it returned success (CLONE_PIDFD); nobody
        // else owns it.
        pid => Ok(Child::Born { pid: pid as i32, handle: unsafe { OwnedFd::from_raw_fd(handle) } }),
    }
}

/// Makes the namespaces of these `CLONE_NEW*` kinds: of a cgroup, with the cgroup it is in as the root, or of time, which
/// this process doesn't enter by that.
pub(crate) fn unshare(kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: only sharing of descriptor tables between threads can go wrong; CLONE_NEW* flags touch none.
    match unsafe { libc::unshare(kinds) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
