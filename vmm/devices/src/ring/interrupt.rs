//! The interrupt line of a slot and the register that says why it was raised.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};

use crate::DeviceError;
use crate::transport::Page;

/// Where a device's interrupts go.
pub trait InterruptLine: fmt::Debug + Send + Sync {
    /// Raises it (edge). When this returns, the interrupt controllers have noted it.
    fn raise(&self);
}

/// Raised by the device, acknowledged by the driver (virtio 1.3 §4.2.2, InterruptStatus and InterruptACK).
///
/// That buffers were used is always among the reasons: the driver looks for them at every interrupt, and another use
/// raises the line again. So that it reads this needs no one here, and a guest's kernel that knows it acknowledges
/// nothing else (`kernel/patches/interrupts.patch`).
#[derive(Debug)]
pub(crate) struct Interrupt {
    page: Page,
    needs_reset: AtomicBool,
    line: OnceLock<Arc<dyn InterruptLine>>,
    /// What tests hear of it.
    #[cfg(test)]
    event: vmm_sys_util::eventfd::EventFd,
}

impl Interrupt {
    pub(crate) fn new(page: Page) -> Result<Self, DeviceError> {
        page.store(VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_VRING);
        Ok(Self {
            page,
            needs_reset: AtomicBool::new(false),
            line: OnceLock::new(),
            #[cfg(test)]
            event: crate::poll::new_event()?,
        })
    }

    /// Connects the line, once: before the guest runs.
    pub(crate) fn connect(&self, line: Arc<dyn InterruptLine>) {
        let connected = self.line.set(line);
        debug_assert!(connected.is_ok(), "a line is connected once");
    }

    /// What is written when the line is raised.
    #[cfg(test)]
    pub(crate) fn event(&self) -> &vmm_sys_util::eventfd::EventFd {
        &self.event
    }

    /// Says that buffers were used.
    pub(crate) fn signal_used(&self) {
        #[cfg(test)]
        self.event.write(1).unwrap();
        if let Some(line) = self.line.get() {
            line.raise();
        }
    }

    /// Notes a change of the configuration space, or of the status register by the device's own doing, for
    /// [`Self::raise_pending`].
    pub(crate) fn note_config(&self) {
        self.page.set(VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_INT_CONFIG);
    }

    /// Raises the line if the driver hasn't acknowledged a change yet.
    pub(crate) fn raise_pending(&self) {
        if self.has_config_change() {
            self.signal_used();
        }
    }

    /// Whether there was a change that the driver hasn't acknowledged yet.
    pub(crate) fn has_config_change(&self) -> bool {
        self.page.load(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0
    }

    /// The driver has seen these reasons.
    pub(crate) fn acknowledge(&self, reasons: u32) {
        self.page.clear(VIRTIO_MMIO_INTERRUPT_STATUS, reasons & VIRTIO_MMIO_INT_CONFIG);
    }

    /// The device gave up until it is reset (virtio 1.3 §2.1.2).
    pub(crate) fn require_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.page.set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.note_config();
        self.raise_pending();
    }

    /// Whether the device gave up.
    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Shows the driver the device's status.
    pub(crate) fn show_status(&self, status: u32) {
        self.page.store(VIRTIO_MMIO_STATUS, status);
        // If it gave up in between, the bit was overwritten.
        if self.needs_reset() {
            self.page.set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        }
    }

    /// Puts the reasons and the device's failure to what is given, without raising the line.
    pub(crate) fn reset_to(&self, has_config_change: bool, needs_reset: bool) {
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
        self.acknowledge(VIRTIO_MMIO_INT_CONFIG);
        if has_config_change {
            self.note_config();
        }
    }
}
