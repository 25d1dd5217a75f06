//! Socket device (virtio 1.3 §5.10), in user space: the host's ends of connections are stream sockets that someone
//! handed in.
//!
//! Only the host opens connections. When the guest's agent listens it tries once to connect to
//! [`READY_PORT`](crate::layout::READY_PORT) of the host; that is refused and means "ready". Connections asked for
//! earlier wait for it. A restored guest is ready from the start.
//!
//! One lock guards everything. Nothing under it blocks: streams are used without waiting, buffers are bounded by
//! what the guest was granted. So whoever has news (the worker, or the thread that connects) passes it on itself,
//! and the request of a new connection is in the guest's queue before [`Vsock::connect`] returns.

mod connection;
mod packet;
mod state;
mod switchboard;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::epoll::EventSet;

pub(crate) use state::VsockState;

use crate::layout::GUEST_CID;
use crate::poll::{Poll, Watch};
use crate::ring::{Broken, Ring, Rings};
use crate::transport::{Device, Identity, Page, read_from};
use crate::worker::Service;
use crate::{DeviceError, GuestRam};
use switchboard::{HOST_PORTS, Switchboard};

/// Index of the queue of packets from the guest. Queue 0 has places for packets to the guest. Queue 2 is for events,
/// of which there are none: a bake has no open connections and every VM's context id is the same.
const TX: usize = 1;
/// Packets taken from the guest before some are sent, and the other way round.
const BUDGET: usize = 64;
/// Turns of both before the worker looks at its other events.
const TURNS: usize = 8;

const IDENTITY: Identity = Identity {
    name: "vsock",
    device_id: VIRTIO_ID_VSOCK,
    features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX,
    queues: &[128, 128, 16],
};

/// The socket device.
#[derive(Debug)]
pub(crate) struct Vsock {
    switchboard: Mutex<Switchboard>,
    rings: Rings,
    poll: Poll,
    /// Queues may be touched.
    running: AtomicBool,
}

impl Vsock {
    /// A device in its reset state.
    pub(crate) fn new(ram: GuestRam, page: Page, poll: Poll) -> Result<Self, DeviceError> {
        Self::with_switchboard(ram, page, poll, Switchboard::new(false, HOST_PORTS.start))
    }

    fn with_switchboard(ram: GuestRam, page: Page, poll: Poll, switchboard: Switchboard) -> Result<Self, DeviceError> {
        let rings = Rings::new(ram, page, IDENTITY.queues)?;
        for (token, notifier) in (0..).zip(rings.notifiers()) {
            poll.add(notifier.as_raw_fd(), token, Watch::Event)?;
        }
        Ok(Self { switchboard: Mutex::new(switchboard), rings, poll, running: AtomicBool::new(false) })
    }

    /// Connects a stream socket to a port of the guest. A refusal shows as end of file on the stream.
    pub(crate) fn connect(&self, port: u32, stream: OwnedFd) -> Result<(), DeviceError> {
        let mut switchboard = self.switchboard();
        switchboard.connect(port, stream, &self.poll)?;
        self.exchange(&mut switchboard);
        Ok(())
    }

    /// Connections that exist or are being made.
    pub(crate) fn open_connections(&self) -> usize {
        self.switchboard().open_connections()
    }

    /// Allows or forbids the device to touch its queues.
    pub(crate) fn set_running(&self, running: bool) {
        // Under the lock, so that nothing is under way when this returns.
        let _nothing_under_way = self.switchboard();
        self.running.store(running, Ordering::SeqCst);
    }

    fn switchboard(&self) -> MutexGuard<'_, Switchboard> {
        // Connections that a panic left half-changed are at worst reset by the guest.
        self.switchboard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves packets both ways until neither side has more, then raises the interrupt once if the driver wants it.
    fn exchange(&self, switchboard: &mut Switchboard) {
        let mut queues = self.rings.lock();
        if !queues.active || !self.running.load(Ordering::SeqCst) {
            return;
        }
        let [rx, tx, ..] = queues.rings.as_mut_slice() else { return };
        match self.exchange_packets(switchboard, rx, tx) {
            Ok(true) => self.rings.notify(TX),
            Ok(false) => {}
            Err(broken) => self.rings.give_up(&mut queues, &broken),
        }
    }

    /// Returns whether there may be more to do.
    fn exchange_packets(&self, switchboard: &mut Switchboard, rx: &mut Ring, tx: &mut Ring) -> Result<bool, Broken> {
        let mut busy = true;
        let (mut sent, mut taken) = (0, 0);
        for _ in 0..TURNS {
            let now_taken = self.take_packets(switchboard, tx)?;
            let now_sent = self.send_packets(switchboard, rx)?;
            taken += now_taken;
            sent += now_sent;
            busy = now_taken + now_sent > 0;
            if !busy {
                break;
            }
        }
        let ram = &self.rings.ram;
        let wanted = (sent > 0 && rx.wants_interrupt(ram)?) | (taken > 0 && tx.wants_interrupt(ram)?);
        if wanted {
            self.rings.interrupt.signal_used();
        }
        Ok(busy)
    }

    /// Takes packets from the guest; returns how many.
    fn take_packets(&self, switchboard: &mut Switchboard, tx: &mut Ring) -> Result<usize, Broken> {
        let ram = &self.rings.ram;
        let mut taken = 0;
        tx.disarm(ram)?;
        while taken < BUDGET {
            let Some(chain) = tx.pop_or_arm(ram)? else { break };
            let head = chain.head;
            if let Ok(request) = chain.request {
                switchboard.receive(request.readable);
            }
            tx.push(ram, head, 0)?;
            taken += 1;
        }
        Ok(taken)
    }

    /// Sends packets to the guest; returns how many places of its receive queue were used.
    fn send_packets(&self, switchboard: &mut Switchboard, rx: &mut Ring) -> Result<usize, Broken> {
        let ram = &self.rings.ram;
        let mut used = 0;
        while used < BUDGET && switchboard.has_packet() {
            // The driver is asked to say when there is room only while something waits for it.
            let Some(chain) = rx.pop_or_arm(ram)? else { break };
            let head = chain.head;
            let mut place = chain.request.map(|request| request.writable).unwrap_or_default();
            let written = match place.take(packet::HEADER_BYTES).filter(|_| place.bytes() > 0) {
                Some(start) => match switchboard.next_packet(&place) {
                    Some(header) => {
                        start.copy_from(&header.to_guest());
                        header.length + packet::HEADER_BYTES as u32
                    }
                    None => {
                        rx.undo_pop();
                        continue;
                    }
                },
                // No place for a packet with data: given back empty.
                None => 0,
            };
            rx.push(ram, head, written)?;
            used += 1;
        }
        Ok(used)
    }
}

impl Device for Vsock {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn rings(&self) -> &Rings {
        &self.rings
    }

    fn read_config(&self, at: usize, data: &mut [u8]) {
        read_from(&GUEST_CID.to_le_bytes(), at, data);
    }

    fn reset(&self) {
        self.switchboard().reset();
    }
}

impl Service for Vsock {
    fn kick(&self) {
        let mut switchboard = self.switchboard();
        switchboard.all_streams_changed();
        self.exchange(&mut switchboard);
    }

    fn handle(&self, token: u32, events: EventSet) {
        let mut switchboard = self.switchboard();
        if HOST_PORTS.contains(&token) {
            switchboard.stream_changed(token, events.contains(EventSet::HANG_UP));
        }
        self.exchange(&mut switchboard);
    }
}
