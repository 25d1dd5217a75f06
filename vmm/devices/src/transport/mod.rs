//! virtio-mmio, version 2 (virtio 1.3 §4.2): one register page per device.
//!
//! What registers read as, the guest sees in memory ([`Window`]); the register file writes it there. It belongs to the
//! vCPU threads, and hands the queues to the device's worker when the driver sets
//! `DRIVER_OK` and takes them back on a reset; in between no write reaches their configuration.

mod registers;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

pub(crate) use state::SlotState;
pub(crate) use window::Page;
pub use window::Window;

use crate::ring::Rings;
use registers::{Registers, Transition};

/// "virt" (§4.2.2).
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Our vendor id: "smvm".
const VENDOR: u32 = 0x6d76_6d73;
/// What a length or address of shared memory reads as where there is none (§4.2.2).
const NO_SHARED_MEMORY: u32 = u32::MAX;
/// First byte of the device's configuration space.
const CONFIG: u32 = reg::VIRTIO_MMIO_CONFIG;
/// Bytes of it that can be other than zero.
const CONFIG_BYTES: usize = 128;

/// What a kind of device is, the same for all its instances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    /// For messages.
    pub(crate) name: &'static str,
    /// Virtio device id (§5).
    pub(crate) device_id: u32,
    /// Features offered.
    pub(crate) features: u64,
    /// Largest size of each queue.
    pub(crate) queues: &'static [u16],
}

/// A device as its register file sees it.
pub(crate) trait Device: Send + Sync + fmt::Debug {
    /// What kind of device it is.
    fn identity(&self) -> Identity;
    /// Its queues and interrupt line.
    fn rings(&self) -> &Rings;
    /// Reads from its configuration space, beyond which are zeros. No device here has one that the driver can write.
    fn read_config(&self, at: usize, data: &mut [u8]);
    /// The driver reset the device; its queues are already withdrawn.
    fn reset(&self);
}

/// One register page.
#[derive(Debug)]
pub(crate) struct Slot {
    device: Arc<dyn Device>,
    registers: Mutex<Registers>,
}

impl Slot {
    /// A slot in its reset state.
    pub(crate) fn new(device: Arc<dyn Device>) -> Self {
        Self::with_registers(device, Registers::default())
    }

    fn with_registers(device: Arc<dyn Device>, registers: Registers) -> Self {
        let slot = Self { device, registers: Mutex::new(registers) };
        slot.show(&slot.registers());
        slot
    }

    /// The device in the slot.
    pub(crate) fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Tells the driver, once it runs, that the configuration space is not what it has read.
    pub(crate) fn note_config_change(&self) {
        let mut registers = self.registers();
        registers.config_generation = registers.config_generation.wrapping_add(1);
        self.show(&registers);
        self.device.rings().interrupt.note_config();
    }

    /// A byte as the guest sees it at an offset into the page.
    #[cfg(test)]
    pub(crate) fn read(&self, offset: u64) -> u8 {
        let [register, byte] = [offset & !3, offset & 3].map(|part| u32::try_from(part).unwrap());
        self.device.rings().page.load(register).to_le_bytes()[byte as usize]
    }

    /// Writes at an offset into the page. Anything but 4 bytes is ignored, and so is the configuration space.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(word), true) = (<[u8; 4]>::try_from(data), offset < CONFIG.into()) {
            self.write_register(register(offset), u32::from_le_bytes(word));
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the driver what the registers are now. Why it was interrupted, the interrupt shows.
    fn show(&self, registers: &Registers) {
        let (identity, rings) = (self.device.identity(), self.device.rings());
        for (register, value) in [
            (reg::VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (reg::VIRTIO_MMIO_VERSION, VERSION),
            (reg::VIRTIO_MMIO_DEVICE_ID, identity.device_id),
            (reg::VIRTIO_MMIO_VENDOR_ID, VENDOR),
            (reg::VIRTIO_MMIO_DEVICE_FEATURES, registers.read_device_features(identity.features)),
            (reg::VIRTIO_MMIO_QUEUE_NUM_MAX, registers.selected(identity.queues).copied().map_or(0, u32::from)),
            (reg::VIRTIO_MMIO_QUEUE_READY, self.queue_ready(registers).into()),
            (reg::VIRTIO_MMIO_CONFIG_GENERATION, registers.config_generation),
            (reg::VIRTIO_MMIO_SHM_LEN_LOW, NO_SHARED_MEMORY),
            (reg::VIRTIO_MMIO_SHM_LEN_HIGH, NO_SHARED_MEMORY),
            (reg::VIRTIO_MMIO_SHM_BASE_LOW, NO_SHARED_MEMORY),
            (reg::VIRTIO_MMIO_SHM_BASE_HIGH, NO_SHARED_MEMORY),
        ] {
            rings.page.store(register, value);
        }
        rings.interrupt.show_status(registers.status);
        let mut config = [0; CONFIG_BYTES];
        self.device.read_config(0, &mut config);
        let (words, _rest) = config.as_chunks();
        for (register, word) in (CONFIG..).step_by(size_of::<u32>()).zip(words) {
            rings.page.store(register, u32::from_le_bytes(*word));
        }
    }

    fn write_register(&self, name: u32, value: u32) {
        let rings = self.device.rings();
        match name {
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => return rings.notify(usize::try_from(value).unwrap_or(usize::MAX)),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => return rings.interrupt.acknowledge(value),
            _ => {}
        }
        let mut registers = self.registers();
        match name {
            reg::VIRTIO_MMIO_STATUS => self.write_status(&mut registers, value),
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => registers.write_driver_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            name => self.write_queue(&registers, name, value),
        }
        self.show(&registers);
    }

    /// Writes a register of the selected queue; ignored unless the queue can be configured now.
    fn write_queue(&self, registers: &Registers, name: u32, value: u32) {
        if !registers.can_configure_queues() {
            return;
        }
        let mut queues = self.device.rings().lock();
        let Some(ring) = registers.selected_mut(&mut queues.rings) else { return };
        let queue = ring.queue_mut();
        if name == reg::VIRTIO_MMIO_QUEUE_READY {
            queue.set_event_idx(registers.has_feature(VIRTIO_RING_F_EVENT_IDX));
            queue.set_ready(value == 1);
        } else if !queue.ready() {
            match name {
                // Sizes and addresses that the queue can't have are ignored by it, and noticed on activation.
                reg::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
                reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
                reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
                reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
                reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
                reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
                reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
                _ => {}
            }
        }
    }

    fn write_status(&self, registers: &mut Registers, value: u32) {
        match registers.write_status(value, self.device.identity().features) {
            Transition::None => {}
            Transition::Activate => self.activate(),
            Transition::Reset => {
                registers.reset();
                self.withdraw();
                self.device.reset();
            }
        }
    }

    /// Hands the queues to the device, or has it fail if one of them isn't in RAM.
    fn activate(&self) {
        let rings = self.device.rings();
        let mut queues = rings.lock();
        if queues.rings.iter().all(|ring| ring.is_usable(&rings.ram)) {
            queues.active = true;
            drop(queues);
            // The driver may have made requests before it set DRIVER_OK.
            (0..rings.notifiers().len()).for_each(|queue| rings.notify(queue));
        } else {
            tracing::warn!(device = self.device.identity().name, "the driver placed a queue outside of RAM");
            rings.interrupt.require_reset();
        }
    }

    /// Takes the queues back. Waits for a request that the worker is completing.
    fn withdraw(&self) {
        let rings = self.device.rings();
        let mut queues = rings.lock();
        queues.active = false;
        for ring in &mut queues.rings {
            ring.queue_mut().reset();
        }
        rings.interrupt.reset_to(false, false);
    }

    fn queue_ready(&self, registers: &Registers) -> bool {
        registers.selected(&self.device.rings().lock().rings).is_some_and(|ring| ring.queue().ready())
    }
}

/// Copies what a configuration space has from a place on, as far as both reach.
pub(crate) fn read_from(space: &[u8], at: usize, data: &mut [u8]) {
    for (target, value) in data.iter_mut().zip(space.get(at..).unwrap_or_default()) {
        *target = *value;
    }
}

/// The register at an offset; one that doesn't exist if the offset is not aligned.
fn register(offset: u64) -> u32 {
    u32::try_from(offset).ok().filter(|offset| offset % 4 == 0).unwrap_or(u32::MAX)
}
