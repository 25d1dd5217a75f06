//! Requests to the kernel's network configuration (rtnetlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLMSG_ERROR`, which a success has as well, with the number 0.
const ACKNOWLEDGEMENT: [u8; 2] = 2_u16.to_ne_bytes();

/// A connection to the kernel, which answers before a call returns.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // The first protocol of this family is the one that configures the network.
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// Changes or adds what the message names.
    pub(super) fn ask(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (_, length) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        outcome(answer.get(..length).unwrap_or_default())
    }
}

/// An acknowledgement: a header of 16 bytes, whose fifth and sixth say what it is, and the negative error number.
pub(super) fn outcome(answer: &[u8]) -> io::Result<()> {
    let number = answer.get(16..20).and_then(|number| number.try_into().ok()).map(i32::from_ne_bytes);
    match (answer.get(4..6), number) {
        (Some(kind), Some(0)) if kind == ACKNOWLEDGEMENT => Ok(()),
        (Some(kind), Some(number)) if kind == ACKNOWLEDGEMENT => Err(io::Error::from_raw_os_error(-number)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
