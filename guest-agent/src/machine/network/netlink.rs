//! Requests to the kernel's network configuration (rtnetlink(7)).

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::messages;

/// `NLMSG_ERROR`, which a success has as well, with the number 0.
const ACKNOWLEDGEMENT: [u8; 2] = 2_u16.to_ne_bytes();

/// A connection to the kernel, about the network namespace that it was opened in. It answers before a call returns.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        // The first protocol of this family is the one that configures the network.
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?))
    }

    /// Changes or adds what the message names.
    pub(super) fn ask(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        outcome(&self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)?)
    }

    /// Adds what the message names after what is there for the same destination, or leaves it there.
    pub(super) fn ask_to_append(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        match outcome(&self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND)?) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// Takes away what the message names.
    pub(super) fn ask_to_remove(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        outcome(&self.exchange(message, NLM_F_ACK)?)
    }

    /// Whether an interface is up and has a link.
    pub(super) fn is_running(&self, index: u32) -> io::Result<bool> {
        // After the header there is a `struct ifinfomsg`, whose flags begin at its ninth byte.
        Ok(self.learn(messages::look(index), 24)? & libc::IFF_RUNNING as u32 != 0)
    }

    /// The index of the interface of that name, the fifth byte there.
    pub(super) fn index_of(&self, name: &str) -> io::Result<u32> {
        self.learn(messages::look_for(name), 20)
    }

    /// A number of the answer to a question.
    fn learn(&self, question: RouteNetlinkMessage, at: usize) -> io::Result<u32> {
        let answer = self.exchange(question, 0)?;
        match answer.get(at..at + 4).and_then(|number| number.try_into().ok()).map(u32::from_ne_bytes) {
            Some(number) if answer[4..6] != ACKNOWLEDGEMENT => Ok(number),
            _ => outcome(&answer).and(Err(io::ErrorKind::InvalidData.into())),
        }
    }

    fn exchange(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<u8>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut answer = vec![0; 4096];
        let (_, length) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(length);
        Ok(answer)
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
