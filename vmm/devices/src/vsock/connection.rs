//! One connection between a stream socket of the host and a port of the guest.
//!
//! ```text
//!            guest ready          RESPONSE               SHUTDOWN of both directions, RST
//!  Waiting ──────────────▶ Requested ─────▶ Established ─────────────────────────────▶ Closed
//!                              │ RST                                                   │ drained
//!                              └──────────────────────────▶ (gone) ◀───────────────────┘
//! ```
//! Bytes for the guest stay in the stream until the guest has room for them. Bytes from the guest go straight to the
//! stream; what the stream doesn't take waits in `inbound`, which the guest can't overfill because it may only send
//! what it was granted.

use std::collections::VecDeque;
use std::io;
use std::num::Wrapping;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::packet::{Credit, Header, MAX_DATA_BYTES, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::ring::Buffers;
use crate::sys;

/// Bytes that the guest may have under way to one connection.
pub(crate) const GRANTED_BYTES: u32 = 256 * 1024;

/// How far the two ends are with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The guest doesn't listen yet.
    Waiting,
    /// The guest is asked, or about to be.
    Requested,
    /// Bytes may flow.
    Established,
    /// The guest has forgotten the connection; what it sent before is still on its way to the stream.
    Closed,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
    pub(crate) phase: Phase,
    /// Already in line for a packet to the guest.
    pub(crate) queued: bool,
    stream: OwnedFd,
    to_guest: ToGuest,
    to_host: ToHost,
}

/// The direction from the stream to the guest.
#[derive(Debug)]
struct ToGuest {
    /// The REQUEST hasn't been sent.
    request_due: bool,
    /// A RST has to be sent.
    reset_due: bool,
    /// SHUTDOWN flags that hold, and those that the guest was told.
    shutdown: u32,
    shutdown_told: u32,
    /// The stream may hold bytes, or its end.
    readable: bool,
    /// The guest won't receive any more.
    refused: bool,
    /// The peer of the stream closed it altogether.
    hung_up: bool,
    /// Bytes sent since the connection began.
    sent: Wrapping<u32>,
    /// What the guest grants.
    credit: Credit,
}

/// The direction from the guest to the stream.
#[derive(Debug, Default)]
struct ToHost {
    /// Bytes that the stream hasn't taken.
    inbound: VecDeque<u8>,
    /// The guest won't send any more.
    ended: bool,
    /// The stream was told so.
    end_told: bool,
    /// The stream takes nothing any more; bytes are dropped.
    broken: bool,
    /// Bytes received since the connection began.
    received: Wrapping<u32>,
    /// The count of bytes taken out of the buffer that the guest was told last.
    told: Wrapping<u32>,
    /// A CREDIT_UPDATE was asked for.
    update_due: bool,
}

/// A packet from the guest that breaks the protocol; the connection is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation;

impl Connection {
    /// A connection whose guest hasn't heard of it.
    pub(crate) fn new(host_port: u32, guest_port: u32, stream: OwnedFd) -> Self {
        Self {
            host_port,
            guest_port,
            phase: Phase::Waiting,
            queued: false,
            stream,
            to_guest: ToGuest {
                request_due: true,
                reset_due: false,
                shutdown: 0,
                shutdown_told: 0,
                readable: true,
                refused: false,
                hung_up: false,
                sent: Wrapping(0),
                credit: Credit::default(),
            },
            to_host: ToHost::default(),
        }
    }

    /// The guest listens now.
    pub(crate) fn guest_is_ready(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Requested;
        }
    }

    /// Nothing is left to do: the guest has forgotten it and the stream has all its bytes.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Closed && !self.to_guest.reset_due && self.to_host.inbound.is_empty()
    }

    /// Whether the next place in the guest's receive queue could be put to use.
    pub(crate) fn has_packet(&self) -> bool {
        if self.to_guest.reset_due {
            return true;
        }
        match self.phase {
            Phase::Waiting | Phase::Closed => false,
            Phase::Requested => self.to_guest.request_due,
            Phase::Established => self.wants_to_read() || self.has_shutdown() || self.owes_credit(),
        }
    }

    /// The stream may have become readable, writable or closed.
    pub(crate) fn stream_changed(&mut self, hung_up: bool) {
        self.to_guest.readable = true;
        self.to_guest.hung_up |= hung_up;
        if hung_up && self.to_guest.shutdown & SHUTDOWN_SEND != 0 {
            self.break_stream();
        }
        self.flush();
    }

    /// Fills `data` with the next packet's data and returns its header; `None` if there is nothing to send after all.
    pub(crate) fn next_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        if std::mem::take(&mut self.to_guest.reset_due) {
            return Some(self.header(Operation::Reset));
        }
        match self.phase {
            Phase::Waiting | Phase::Closed => None,
            Phase::Requested => std::mem::take(&mut self.to_guest.request_due).then(|| self.header(Operation::Request)),
            Phase::Established => self.next_established_packet(data),
        }
    }

    fn next_established_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        if self.wants_to_read() && data.bytes() > 0 {
            let length = self.read_stream(data);
            if length > 0 {
                self.to_guest.sent += length;
                return Some(Header { length, ..self.header(Operation::Data) });
            }
        }
        if self.has_shutdown() {
            self.to_guest.shutdown_told = self.to_guest.shutdown;
            return Some(Header { flags: self.to_guest.shutdown, ..self.header(Operation::Shutdown) });
        }
        self.owes_credit().then(|| self.header(Operation::CreditUpdate))
    }

    /// Reads from the stream into guest memory, as much as the guest grants; returns how much.
    fn read_stream(&mut self, data: &Buffers<'_>) -> u32 {
        let limit = self.granted().min(MAX_DATA_BYTES as u32);
        let received = match sys::receive(self.stream.as_fd(), data.slices(), limit as usize) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            result => result,
        };
        match received {
            Ok(bytes) => u32::try_from(bytes).unwrap_or(limit),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.to_guest.readable = false;
                0
            }
            Err(error) => {
                self.to_guest.shutdown |= SHUTDOWN_SEND;
                if self.to_guest.hung_up || error.kind() != io::ErrorKind::UnexpectedEof {
                    self.break_stream();
                }
                0
            }
        }
    }

    /// The guest answered the request. Only the first answer counts.
    pub(crate) fn established(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Requested || self.to_guest.request_due {
            return Err(Violation);
        }
        self.phase = Phase::Established;
        Ok(())
    }

    /// The guest's buffer as of its latest packet.
    pub(crate) fn credit_granted(&mut self, credit: Credit) {
        self.to_guest.credit = credit;
    }

    /// The guest wants to know how much it may send.
    pub(crate) fn credit_asked(&mut self) {
        self.to_host.update_due = true;
    }

    /// The guest sent data.
    pub(crate) fn data_arrived(&mut self, mut data: Buffers<'_>) -> Result<(), Violation> {
        let waiting = self.to_host.inbound.len();
        if self.phase != Phase::Established || self.to_host.ended || waiting + data.bytes() > GRANTED_BYTES as usize {
            return Err(Violation);
        }
        self.to_host.received += u32::try_from(data.bytes()).ok().ok_or(Violation)?;
        while waiting == 0 && !self.to_host.broken && data.bytes() > 0 {
            match sys::send(self.stream.as_fd(), data.slices()) {
                Ok(sent) => data.take(sent).map_or((), drop),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.break_stream(),
            }
        }
        if !self.to_host.broken {
            self.keep(data);
        }
        Ok(())
    }

    /// The guest is done with one or both directions. Returns whether it is done with the connection.
    pub(crate) fn guest_shut_down(&mut self, flags: u32) -> bool {
        if flags & SHUTDOWN_RECEIVE != 0 && !std::mem::replace(&mut self.to_guest.refused, true) {
            // From now on writing to the stream fails. The call itself fails only when the other side is gone.
            let _ = shutdown(&self.stream, Shutdown::Read);
        }
        self.to_host.ended |= flags & SHUTDOWN_SEND != 0;
        self.tell_end();
        self.to_guest.refused && self.to_host.ended
    }

    /// Ends the guest's side; `reset` tells the guest so.
    pub(crate) fn close(&mut self, reset: bool) {
        self.phase = Phase::Closed;
        self.to_guest.reset_due = reset;
        self.to_host.ended = true;
        self.tell_end();
    }

    /// Gives waiting bytes to the stream, as far as it takes them.
    fn flush(&mut self) {
        while !self.to_host.inbound.is_empty() {
            let (front, _) = self.to_host.inbound.as_slices();
            match send(&self.stream, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => drop(self.to_host.inbound.drain(..sent)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.break_stream(),
            }
        }
        // A burst is over: its memory goes back.
        self.to_host.inbound.shrink_to(0);
        self.tell_end();
    }

    /// Copies what the stream didn't take.
    fn keep(&mut self, mut data: Buffers<'_>) {
        let mut chunk = [0; 4096];
        while let Some(part) = data.take(data.bytes().min(chunk.len())).filter(|part| part.bytes() > 0) {
            let copied = part.copy_to(&mut chunk);
            self.to_host.inbound.extend(&chunk[..copied]);
        }
    }

    /// Passes the guest's end of file on, after its last byte.
    fn tell_end(&mut self) {
        let told = &mut self.to_host.end_told;
        if self.to_host.ended && self.to_host.inbound.is_empty() && !std::mem::replace(told, true) {
            // Fails only when the other side is gone, which is what it would be told.
            let _ = shutdown(&self.stream, Shutdown::Write);
        }
    }

    /// The stream takes no more bytes: the guest is told, and what it sends is dropped.
    fn break_stream(&mut self) {
        self.to_host.broken = true;
        self.to_host.inbound = VecDeque::new();
        self.to_guest.shutdown |= SHUTDOWN_RECEIVE;
    }

    /// Bytes that the guest still has room for.
    fn granted(&self) -> u32 {
        let under_way = (self.to_guest.sent - Wrapping(self.to_guest.credit.forwarded)).0;
        self.to_guest.credit.allocated.saturating_sub(under_way)
    }

    fn wants_to_read(&self) -> bool {
        let ToGuest { readable, refused, shutdown, .. } = self.to_guest;
        readable && !refused && shutdown & SHUTDOWN_SEND == 0 && self.granted() > 0
    }

    fn has_shutdown(&self) -> bool {
        self.to_guest.shutdown != self.to_guest.shutdown_told
    }

    /// The guest believes less than half of its grant is free, and there is better news.
    fn owes_credit(&self) -> bool {
        let ToHost { received, told, .. } = self.to_host;
        let spent = (received - told).0;
        self.to_host.update_due || (spent > GRANTED_BYTES / 2 && self.forwarded() != told)
    }

    /// Bytes taken out of the buffer since the connection began.
    fn forwarded(&self) -> Wrapping<u32> {
        // The buffer never holds more than the grant.
        self.to_host.received - Wrapping(u32::try_from(self.to_host.inbound.len()).unwrap_or(GRANTED_BYTES))
    }

    /// A header that carries our credit; the guest knows it from now on.
    fn header(&mut self, operation: Operation) -> Header {
        self.to_host.told = self.forwarded();
        self.to_host.update_due = false;
        let credit = Credit { allocated: GRANTED_BYTES, forwarded: self.to_host.told.0 };
        Header { credit, ..Header::control(operation, self.host_port, self.guest_port) }
    }
}

impl Drop for Connection {
    /// Ends the stream so that its other side reads an end of file. Closing it with unread bytes inside would give
    /// that side an error instead (`unix(7)`), so they are taken out once no more can come.
    fn drop(&mut self) {
        let _ = shutdown(&self.stream, Shutdown::Both);
        let mut scratch = [0; 4096];
        while let Ok((1.., _)) | Err(Errno::INTR) = recv(&self.stream, &mut scratch, RecvFlags::DONTWAIT) {}
    }
}
