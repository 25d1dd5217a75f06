//! One virtqueue: `virtio_queue::Queue` reduced to what devices do with it.

use serde::{Deserialize, Serialize};
use virtio_queue::{Error, Queue, QueueOwnedT, QueueState, QueueT};

use super::Chain;
use super::chain::in_ram;
use crate::GuestRam;

/// A virtqueue that a device serves.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Queue,
}

/// The ring's bookkeeping is broken (not just one request); the device stops until the driver resets it.
#[derive(Debug, thiserror::Error)]
#[error("a ring is broken")]
pub(crate) struct Broken(#[from] Error);

impl Ring {
    /// A queue in its reset state. `max_size` is a constant of the device, a power of two.
    pub(crate) fn new(max_size: u16) -> Result<Self, Broken> {
        Ok(Self { queue: Queue::new(max_size)? })
    }

    /// The next request, if there is one. A queue that the driver left out never has any.
    pub(crate) fn pop<'m>(&mut self, ram: &'m GuestRam) -> Result<Option<Chain<'m>>, Broken> {
        if !self.queue.ready() {
            return Ok(None);
        }
        let descriptors = self.queue.iter(ram)?.next();
        Ok(descriptors.map(|descriptors| Chain::gather(descriptors, ram)))
    }

    /// The next request, or else a notification of it. Looks twice and no more: a guest that makes requests appear and
    /// disappear misses the notification, and keeps nobody here.
    pub(crate) fn pop_or_arm<'m>(&mut self, ram: &'m GuestRam) -> Result<Option<Chain<'m>>, Broken> {
        match self.pop(ram)? {
            None if self.arm(ram)? => self.pop(ram),
            popped => Ok(popped),
        }
    }

    /// Puts back the request popped last.
    pub(crate) fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a request back to the driver, with the number of bytes written to it.
    pub(crate) fn push(&mut self, ram: &GuestRam, head: u16, written: u32) -> Result<(), Broken> {
        Ok(self.queue.add_used(ram, head, written)?)
    }

    /// Tells the driver that no notification is needed for now.
    pub(crate) fn disarm(&mut self, ram: &GuestRam) -> Result<(), Broken> {
        if self.queue.ready() { Ok(self.queue.disable_notification(ram)?) } else { Ok(()) }
    }

    /// Asks the driver for a notification of the next request; returns whether one has already arrived.
    pub(crate) fn arm(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        Ok(self.queue.ready() && self.queue.enable_notification(ram)?)
    }

    /// Whether the driver wants an interrupt for what was pushed since the last call.
    pub(crate) fn wants_interrupt(&mut self, ram: &GuestRam) -> Result<bool, Broken> {
        Ok(self.queue.needs_notification(ram)?)
    }

    /// The queue's configuration, for the register file.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The queue's configuration, for the register file; only while the device isn't active.
    pub(crate) fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// Whether every part of a ready queue is in RAM. A queue that the driver left out is fine.
    pub(crate) fn is_usable(&self, ram: &GuestRam) -> bool {
        let size = u64::from(self.queue.size());
        // Descriptors have 16 bytes; an available entry has 2 and a used one 8, each ring with 6 bytes around them.
        !self.queue.ready()
            || (self.queue.avail_ring() != 0
                && in_ram(ram, self.queue.desc_table(), size * 16)
                && in_ram(ram, self.queue.avail_ring(), size * 2 + 6)
                && in_ram(ram, self.queue.used_ring(), size * 8 + 6))
    }
}

/// Saved configuration and positions of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RingState {
    max_size: u16,
    size: u16,
    ready: bool,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

impl RingState {
    /// Largest size that the device offered.
    pub(crate) fn max_size(&self) -> u16 {
        self.max_size
    }
}

impl From<&Ring> for RingState {
    fn from(ring: &Ring) -> Self {
        let state = ring.queue.state();
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_avail: state.next_avail,
            next_used: state.next_used,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
    }
}

impl TryFrom<RingState> for Ring {
    type Error = Broken;

    fn try_from(state: RingState) -> Result<Self, Broken> {
        let queue = Queue::try_from(QueueState {
            max_size: state.max_size,
            next_avail: state.next_avail,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        })?;
        Ok(Self { queue })
    }
}
