//! Packet headers of the socket device (virtio 1.3 §5.10.6).
//!
//! `virtio-vsock` has a packet type too, but it takes a packet's data from at most one descriptor, and the kernel
//! sends data in several.

use crate::layout::{GUEST_CID, HOST_CID};

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 44;
/// Most bytes of data in one packet.
pub(crate) const MAX_DATA_BYTES: usize = 64 * 1024;

/// The sender won't receive any more (SHUTDOWN).
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender won't send any more (SHUTDOWN).
pub(crate) const SHUTDOWN_SEND: u32 = 2;

/// The only socket type of the device.
const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Open a connection.
    Request,
    /// The connection is open.
    Response,
    /// There is no such connection (any more).
    Reset,
    /// The sender is done with a direction.
    Shutdown,
    /// Data.
    Data,
    /// News of the sender's buffer.
    CreditUpdate,
    /// Asks for news of the receiver's buffer.
    CreditRequest,
}

/// One end's view of the buffer space it grants (§5.10.6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credit {
    /// Size of the sender's receive buffer.
    pub(crate) allocated: u32,
    /// Bytes it has taken out of the buffer since the connection began, modulo 2^32.
    pub(crate) forwarded: u32,
}

/// A packet header between a port of the host and a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
    /// Bytes of data that follow.
    pub(crate) length: u32,
    pub(crate) operation: Operation,
    /// Of a SHUTDOWN.
    pub(crate) flags: u32,
    pub(crate) credit: Credit,
}

/// A header that can't be answered with a reset in the guest's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// Not from this guest to this host: dropped.
    Foreign,
    /// Right ends, but a type or operation that doesn't exist: answered with a reset.
    Unknown { host_port: u32, guest_port: u32 },
}

impl Operation {
    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    fn from_code(code: u16) -> Option<Self> {
        Some(match code {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

impl Header {
    /// A header without data.
    pub(crate) fn control(operation: Operation, host_port: u32, guest_port: u32) -> Self {
        Self { host_port, guest_port, length: 0, operation, flags: 0, credit: Credit::default() }
    }

    /// The header as the guest receives it.
    pub(crate) fn to_guest(self) -> [u8; HEADER_BYTES] {
        self.encode(HOST_CID, GUEST_CID, self.host_port, self.guest_port)
    }

    /// The header as the guest would send it.
    #[cfg(test)]
    pub(crate) fn to_host(self) -> [u8; HEADER_BYTES] {
        self.encode(GUEST_CID, HOST_CID, self.guest_port, self.host_port)
    }

    fn encode(self, from: u64, to: u64, from_port: u32, to_port: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &from.to_le_bytes());
        put(8, &to.to_le_bytes());
        put(16, &from_port.to_le_bytes());
        put(20, &to_port.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &STREAM.to_le_bytes());
        put(30, &self.operation.code().to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.credit.allocated.to_le_bytes());
        put(40, &self.credit.forwarded.to_le_bytes());
        bytes
    }

    /// Reads a header that the guest sent.
    pub(crate) fn from_guest(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Rejection> {
        let ends = (long(bytes, 0), long(bytes, 8));
        if ends != (GUEST_CID, HOST_CID) {
            return Err(Rejection::Foreign);
        }
        let (guest_port, host_port) = (word(bytes, 16), word(bytes, 20));
        let (kind, code) = (short(bytes, 28), short(bytes, 30));
        let operation = Operation::from_code(code)
            .filter(|_| kind == STREAM)
            .ok_or(Rejection::Unknown { host_port, guest_port })?;
        Ok(Self {
            host_port,
            guest_port,
            length: word(bytes, 24),
            operation,
            flags: word(bytes, 32),
            credit: Credit { allocated: word(bytes, 36), forwarded: word(bytes, 40) },
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|index| bytes.get(at + index).copied().unwrap_or(0))
}

fn short(bytes: &[u8; HEADER_BYTES], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn word(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn long(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}
