//! Saving a slot and checking a saved one.

use std::sync::Arc;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use super::registers::Registers;
use super::{Device, Slot};
use crate::DeviceError;
use crate::ring::{Ring, RingState};

/// Saved registers and queues of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotState {
    registers: Registers,
    interrupt_status: u32,
    needs_reset: bool,
    rings: Vec<RingState>,
}

impl Slot {
    /// The state of the slot. Its worker must be stopped.
    pub(crate) fn save(&self) -> SlotState {
        let rings = self.device.rings();
        SlotState {
            registers: *self.registers(),
            interrupt_status: rings.interrupt.status(),
            needs_reset: rings.interrupt.needs_reset(),
            rings: rings.lock().rings.iter().map(RingState::from).collect(),
        }
    }

    /// A slot in a saved state, which may come from anywhere: only what a driver can bring about is accepted.
    pub(crate) fn restore(device: Arc<dyn Device>, state: SlotState) -> Result<Self, DeviceError> {
        let identity = device.identity();
        let invalid = |reason| DeviceError::State { device: identity.name, reason };
        let registers = state.registers;
        if !registers.is_reachable(identity.features) {
            return Err(invalid("a driver can't have set its status and features"));
        }
        if state.interrupt_status & !(VIRTIO_MMIO_INT_CONFIG | VIRTIO_MMIO_INT_VRING) != 0 {
            return Err(invalid("its interrupt has unknown reasons"));
        }
        if !state.rings.iter().map(RingState::max_size).eq(identity.queues.iter().copied()) {
            return Err(invalid("its queues are not those of the device"));
        }
        let rings = device.rings();
        let mut queues = rings.lock();
        for (ring, saved) in queues.rings.iter_mut().zip(state.rings) {
            let restored = Ring::try_from(saved).ok().ok_or(invalid("a queue is misconfigured"))?;
            let queue = restored.queue();
            if queue.ready() && queue.event_idx_enabled() != registers.has_feature(VIRTIO_RING_F_EVENT_IDX) {
                return Err(invalid("a queue's notifications contradict the features"));
            }
            if registers.is_active() && !state.needs_reset && !restored.is_usable(&rings.ram) {
                return Err(invalid("a queue is outside of RAM"));
            }
            *ring = restored;
        }
        queues.active = registers.is_active() && !state.needs_reset;
        rings.interrupt.set(state.interrupt_status, state.needs_reset);
        drop(queues);
        Ok(Self { device, registers: Mutex::new(registers) })
    }
}
