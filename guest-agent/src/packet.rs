//! Packets with descriptors over local `SOCK_SEQPACKET` sockets: how the agent, its zygote and a container's first
//! process talk.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest packet: an OCI spec fits many times. Bounds what a receiver allocates.
pub(crate) const MAX_PACKET_BYTES: usize = 4 << 20;
/// Most descriptors in one packet.
const MAX_DESCRIPTORS: usize = 8;

/// A packet that was received.
#[derive(Debug)]
pub(crate) struct Packet {
    bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// Splits the packet into its message and the bytes that follow it.
    pub(crate) fn decode<M: DeserializeOwned>(&self) -> io::Result<(M, &[u8])> {
        postcard::take_from_bytes(&self.bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// A connected pair of packet sockets, closed by execve, with room for the largest packet.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Lets `socket` send packets of up to [`MAX_PACKET_BYTES`]: the default is about 200 KiB.
pub(crate) fn widen(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_send_buffer_size_force(socket, MAX_PACKET_BYTES)?)
}

/// Sends `message`, followed by `body`, with copies of `descriptors`.
pub(crate) fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    body: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let head = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let parts = [IoSlice::new(&head), IoSlice::new(body)];
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one packet; `None` when the other side has closed its end.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<Option<Packet>> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let mut nothing: [u8; 0] = [];
    let (_, length) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut nothing[..], peek))?;
    if length > MAX_PACKET_BYTES {
        return Err(Errno::MSGSIZE.into());
    }
    let mut bytes = vec![0; length.max(1)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(Some(Packet { bytes, descriptors }))
}
