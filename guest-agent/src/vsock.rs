//! The virtual socket between guest and host.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, connect, listen, socket};

/// The host, seen from the guest (`VMADDR_CID_HOST`).
const HOST: u32 = libc::VMADDR_CID_HOST;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Listens on a port for connections from the host.
pub(crate) fn listen_on(port: u32) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket)
}

/// Tells the host that this guest listens, by a connection which the host refuses.
pub(crate) fn knock(port: u32) -> io::Result<()> {
    let socket = new_socket()?;
    match connect(socket.as_raw_fd(), &VsockAddr::new(HOST, port)) {
        Ok(()) | Err(nix::errno::Errno::ECONNRESET | nix::errno::Errno::ECONNREFUSED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}
