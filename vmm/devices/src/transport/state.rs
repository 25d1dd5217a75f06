//! Saving a slot and checking a saved one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
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
    has_config_change: bool,
    needs_reset: bool,
    rings: Vec<RingState>,
}

impl Slot {
    /// The state of the slot. Its worker must be stopped.
    pub(crate) fn save(&self) -> SlotState {
        let rings = self.device.rings();
        SlotState {
            registers: *self.registers(),
            has_config_change: rings.interrupt.has_config_change(),
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
        rings.interrupt.reset_to(state.has_config_change, state.needs_reset);
        drop(queues);
        Ok(Self::with_registers(device, registers))
    }
}
