//! Messages and descriptors over one `SOCK_SEQPACKET` socket.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Fd, MAX_FDS, MAX_MESSAGE_BYTES};

/// A message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side closed the socket.
    #[error("the control socket was closed by the other side")]
    Closed,
    /// The socket failed.
    #[error("the control socket failed")]
    Socket(#[source] Errno),
    /// The message does not decode.
    #[error("a control message of {bytes} bytes does not decode")]
    Malformed {
        /// Size of the message.
        bytes: usize,
        /// What the decoder says.
        #[source]
        source: postcard::Error,
    },
    /// The message or its descriptors exceed the limits.
    #[error("a control message exceeds {MAX_MESSAGE_BYTES} bytes or {MAX_FDS} descriptors")]
    TooLarge,
    /// The message names a descriptor that did not come with it, or one twice.
    #[error("the control message came with {fds} descriptors; it names number {index}, which isn't there or was taken")]
    NoSuchFd {
        /// The index that was asked for.
        index: u8,
        /// How many arrived.
        fds: usize,
    },
}

/// A received message and the descriptors that came with it.
#[derive(Debug)]
pub struct Packet<T> {
    /// The message.
    pub message: T,
    fds: Vec<Option<OwnedFd>>,
}

impl<T> Packet<T> {
    /// Takes a descriptor out; each can be taken once.
    pub fn take(&mut self, fd: Fd) -> Result<OwnedFd, ControlError> {
        let fds = self.fds.len();
        self.fds.get_mut(usize::from(fd.0)).and_then(Option::take).ok_or(ControlError::NoSuchFd { index: fd.0, fds })
    }

    /// Splits the message from its descriptors.
    pub fn split(self) -> (T, Packet<()>) {
        (self.message, Packet { message: (), fds: self.fds })
    }
}

/// One end of a control socket.
#[derive(Debug)]
pub struct ControlSocket {
    socket: OwnedFd,
}

impl ControlSocket {
    /// A connected pair: the caller's end and the VMM's. Both are close-on-exec.
    pub fn pair() -> Result<(Self, Self), ControlError> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(ControlError::Socket)?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Sends a message with its descriptors; the receiver gets duplicates.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let bytes = postcard::to_stdvec(message).map_err(|source| ControlError::Malformed { bytes: 0, source })?;
        if bytes.len() > MAX_MESSAGE_BYTES || fds.len() > MAX_FDS {
            return Err(ControlError::TooLarge);
        }
        let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(fds).size()];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ControlError::TooLarge);
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(error) => return Err(ControlError::Socket(error)),
            }
        }
    }

    /// Receives the next message. Blocks unless the socket is non-blocking.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<Packet<T>, ControlError> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let iov = &mut [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.socket, iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                // The other side has ended without reading all that it was sent. That is told once, and before what it
                // had to say itself, which is still there.
                Err(Errno::CONNRESET) => {}
                Err(error) => return Err(ControlError::Socket(error)),
            }
        };
        let fds = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .map(Some)
            .collect();
        if received.bytes == 0 {
            return Err(ControlError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ControlError::TooLarge);
        }
        let message = postcard::from_bytes(&bytes[..received.bytes])
            .map_err(|source| ControlError::Malformed { bytes: received.bytes, source })?;
        Ok(Packet { message, fds })
    }
}

impl From<OwnedFd> for ControlSocket {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<ControlSocket> for OwnedFd {
    fn from(control: ControlSocket) -> Self {
        control.socket
    }
}

impl AsRawFd for ControlSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use proptest::prelude::*;

    use super::*;
    use crate::{Reply, Request};

    #[test]
    fn a_request_arrives_with_its_descriptor() {
        let (ours, theirs) = ControlSocket::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kernel").unwrap();
        ours.send(&Request::Connect { port: 7, stream: Fd(0) }, &[file.as_fd()]).unwrap();
        let mut packet = theirs.receive::<Request>().unwrap();
        assert_eq!(packet.message, Request::Connect { port: 7, stream: Fd(0) });
        let mut received = std::fs::File::from(packet.take(Fd(0)).unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "kernel");
        assert!(matches!(packet.take(Fd(0)), Err(ControlError::NoSuchFd { index: 0, fds: 1 })));
    }

    #[test]
    fn a_closed_socket_and_garbage_are_told_apart() {
        let (ours, theirs) = ControlSocket::pair().unwrap();
        ours.send(&[255u8; 3], &[]).unwrap();
        assert!(matches!(theirs.receive::<Reply>(), Err(ControlError::Malformed { .. })));
        drop(ours);
        assert!(matches!(theirs.receive::<Reply>(), Err(ControlError::Closed)));
    }

    #[test]
    fn last_words_are_heard_although_something_was_unread() {
        let (ours, theirs) = ControlSocket::pair().unwrap();
        ours.send(&Request::Shutdown, &[]).unwrap();
        theirs.send(&Reply::Stopping, &[]).unwrap();
        drop(theirs);
        assert!(matches!(ours.send(&Request::Shutdown, &[]), Err(ControlError::Closed)));
        assert_eq!(ours.receive::<Reply>().unwrap().message, Reply::Stopping);
        assert!(matches!(ours.receive::<Reply>(), Err(ControlError::Closed)));
    }

    proptest! {
        /// Either side may be taken over by whoever it serves.
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 1..400), kind in 0u8..8) {
            let (ours, theirs) = ControlSocket::pair().unwrap();
            let bytes = [&[kind], &bytes[..]].concat();
            for _ in 0..2 {
                rustix::io::write(&ours, &bytes).unwrap();
            }
            for error in [theirs.receive::<Request>().err(), theirs.receive::<Reply>().err()] {
                prop_assert!(matches!(error, None | Some(ControlError::Malformed { .. })), "{error:?}");
            }
        }
    }

    #[test]
    fn more_than_a_message_may_hold_is_refused_on_both_sides() {
        let (ours, theirs) = ControlSocket::pair().unwrap();
        let large = vec![1u8; MAX_MESSAGE_BYTES + 1];
        assert!(matches!(ours.send(&large, &[]), Err(ControlError::TooLarge)));
        rustix::io::write(&ours, &large).unwrap();
        assert!(matches!(theirs.receive::<Request>(), Err(ControlError::TooLarge)));
    }
}
