//! All connections of a VM: which packets go where, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};

use super::connection::{Connection, Phase, Violation};
use super::packet::{HEADER_BYTES, Header, Operation, Rejection};
use crate::DeviceError;
use crate::layout::READY_PORT;
use crate::poll::{Poll, Watch};
use crate::ring::Buffers;

/// Most connections at a time. A process with its own streams needs three.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Ports of the host's end of connections, one after the other.
pub(super) const HOST_PORTS: std::ops::Range<u32> = 1 << 30..1 << 31;
/// Most resets waiting for room in the guest's receive queue; a guest that causes more doesn't get them.
const MAX_RESETS: usize = 256;

/// The connections of a VM.
#[derive(Debug)]
pub(crate) struct Switchboard {
    connections: HashMap<u32, Connection>,
    /// Host ports of connections with something for the guest, in turn.
    line: VecDeque<u32>,
    /// For packets that belong to no connection.
    resets: VecDeque<Header>,
    /// The guest listens.
    ready: bool,
    next_port: u32,
}

impl Switchboard {
    /// No connections, and a guest that listens or not.
    pub(super) fn new(ready: bool, next_port: u32) -> Self {
        Self { connections: HashMap::new(), line: VecDeque::new(), resets: VecDeque::new(), ready, next_port }
    }

    /// Connections that exist, are being made or still carry bytes to the host.
    pub(super) fn open_connections(&self) -> usize {
        self.connections.len()
    }

    /// Port of the next connection.
    pub(super) fn next_port(&self) -> u32 {
        self.next_port
    }

    /// The guest is gone, and with it all connections that it had heard of. Those that wait for a guest to listen wait
    /// on: every driver resets the device when it begins.
    pub(super) fn reset(&mut self) {
        let mut waiting = std::mem::take(&mut self.connections);
        waiting.retain(|_, connection| connection.phase == Phase::Waiting);
        *self = Self { connections: waiting, ..Self::new(false, self.next_port) };
    }

    /// Adds a connection, asking the guest when it is ready.
    pub(super) fn connect(&mut self, guest_port: u32, stream: OwnedFd, poll: &Poll) -> Result<(), DeviceError> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return Err(DeviceError::TooManyConnections { limit: MAX_CONNECTIONS });
        }
        let host_port = self.free_port();
        poll.add(stream.as_raw_fd(), host_port, Watch::Stream)?;
        let mut connection = Connection::new(host_port, guest_port, stream);
        if self.ready {
            connection.guest_is_ready();
        }
        self.connections.insert(host_port, connection);
        self.settle(host_port);
        Ok(())
    }

    /// A connection's stream has news.
    pub(super) fn stream_changed(&mut self, host_port: u32, hung_up: bool) {
        if let Some(connection) = self.connections.get_mut(&host_port) {
            connection.stream_changed(hung_up);
            self.settle(host_port);
        }
    }

    /// Any stream may have news.
    pub(super) fn all_streams_changed(&mut self) {
        let ports: Vec<u32> = self.connections.keys().copied().collect();
        ports.into_iter().for_each(|port| self.stream_changed(port, false));
    }

    /// Takes in a packet of the guest.
    pub(super) fn receive(&mut self, mut packet: Buffers<'_>) {
        let mut bytes = [0; HEADER_BYTES];
        let Some(header) = packet.take(HEADER_BYTES) else { return };
        header.copy_to(&mut bytes);
        match Header::from_guest(&bytes) {
            Ok(header) => self.dispatch(header, packet),
            Err(Rejection::Unknown { host_port, guest_port }) => self.refuse(host_port, guest_port),
            Err(Rejection::Foreign) => tracing::debug!("the guest sent a packet between ends that don't exist"),
        }
    }

    fn dispatch(&mut self, header: Header, mut data: Buffers<'_>) {
        let Header { host_port, guest_port, operation, .. } = header;
        if operation == Operation::Request {
            // The guest can't open connections; trying the ready port says that it listens.
            self.refuse(host_port, guest_port);
            if host_port == READY_PORT {
                self.guest_is_ready();
            }
            return;
        }
        let known = |connection: &&mut Connection| {
            connection.guest_port == guest_port && !matches!(connection.phase, Phase::Waiting | Phase::Closed)
        };
        let Some(connection) = self.connections.get_mut(&host_port).filter(known) else {
            if operation != Operation::Reset {
                self.refuse(host_port, guest_port);
            }
            return;
        };
        let data = usize::try_from(header.length).ok().and_then(|length| data.take(length));
        if apply(connection, header, data).is_err() {
            tracing::debug!(host_port, guest_port, ?operation, "the guest broke the rules of a connection");
            connection.close(true);
        }
        self.settle(host_port);
    }

    /// Writes the next packet for the guest to `data` and returns its header; `None` if the connection whose turn it
    /// was has nothing to send after all. Call while [`Self::has_packet`].
    pub(super) fn next_packet(&mut self, data: &Buffers<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        let host_port = self.line.pop_front()?;
        let connection = self.connections.get_mut(&host_port)?;
        connection.queued = false;
        let header = connection.next_packet(data);
        if header.is_some() || connection.is_over() {
            self.settle(host_port);
        }
        header
    }

    /// Whether something may be there for the guest.
    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    fn guest_is_ready(&mut self) {
        self.ready = true;
        let mut ports: Vec<u32> = self.connections.keys().copied().collect();
        ports.sort_unstable();
        for port in ports {
            if let Some(connection) = self.connections.get_mut(&port) {
                connection.guest_is_ready();
            }
            self.settle(port);
        }
    }

    /// Puts a connection in line if it has something for the guest, or drops it if it is over.
    fn settle(&mut self, host_port: u32) {
        let Some(connection) = self.connections.get_mut(&host_port) else { return };
        if connection.is_over() {
            self.connections.remove(&host_port);
        } else if connection.has_packet() && !std::mem::replace(&mut connection.queued, true) {
            self.line.push_back(host_port);
        }
    }

    fn refuse(&mut self, host_port: u32, guest_port: u32) {
        if self.resets.len() < MAX_RESETS {
            self.resets.push_back(Header::control(Operation::Reset, host_port, guest_port));
        }
    }

    fn free_port(&mut self) -> u32 {
        // Ends: there are far more ports than connections.
        loop {
            let port = self.next_port;
            self.next_port = if port + 1 < HOST_PORTS.end { port + 1 } else { HOST_PORTS.start };
            if !self.connections.contains_key(&port) {
                return port;
            }
        }
    }
}

/// Applies a packet to its connection. `data` is `None` if the packet is shorter than its header says.
fn apply(connection: &mut Connection, header: Header, data: Option<Buffers<'_>>) -> Result<(), Violation> {
    connection.credit_granted(header.credit);
    match header.operation {
        Operation::Response => connection.established(),
        Operation::Data => connection.data_arrived(data.ok_or(Violation)?),
        Operation::CreditUpdate => Ok(()),
        Operation::CreditRequest => {
            connection.credit_asked();
            Ok(())
        }
        Operation::Shutdown => {
            if connection.guest_shut_down(header.flags) {
                connection.close(true);
            }
            Ok(())
        }
        Operation::Reset => {
            connection.close(false);
            Ok(())
        }
        Operation::Request => Err(Violation),
    }
}
