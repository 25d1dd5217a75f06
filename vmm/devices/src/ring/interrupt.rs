//! The interrupt line of a slot and the register that says why it was raised.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

use crate::DeviceError;
use crate::poll::new_event;

/// Raised by the device, acknowledged by the driver (virtio 1.3 §4.2.2, InterruptStatus and InterruptACK).
///
/// That buffers were used counts as acknowledged once it was told: the driver looks for them after that, and another
/// use raises the line again. Its acknowledgment, which every interrupt would leave the guest for, then needs no one.
#[derive(Debug)]
pub(crate) struct Interrupt {
    status: AtomicU32,
    needs_reset: AtomicBool,
    event: EventFd,
}

impl Interrupt {
    pub(crate) fn new() -> Result<Self, DeviceError> {
        Ok(Self { status: AtomicU32::new(0), needs_reset: AtomicBool::new(false), event: new_event()? })
    }

    /// The event that carries the line.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Says that buffers were used.
    pub(crate) fn signal_used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// Says that the configuration space changed, or the status register by the device's own doing.
    pub(crate) fn signal_config(&self) {
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Notes a configuration change for [`Self::raise_pending`].
    pub(crate) fn note_config(&self) {
        self.status.fetch_or(VIRTIO_MMIO_INT_CONFIG, Ordering::SeqCst);
    }

    /// Raises the line again if the driver hasn't acknowledged everything: an edge may have been lost in a capture.
    pub(crate) fn raise_pending(&self) {
        if self.status() != 0 {
            self.raise(0);
        }
    }

    /// Tells the driver the reasons that aren't acknowledged yet.
    pub(crate) fn tell(&self) -> u32 {
        self.status.fetch_and(!VIRTIO_MMIO_INT_VRING, Ordering::SeqCst)
    }

    /// The reasons that aren't acknowledged yet.
    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The driver has seen these reasons.
    pub(crate) fn acknowledge(&self, reasons: u32) {
        self.status.fetch_and(!reasons, Ordering::SeqCst);
    }

    /// The device gave up until it is reset (virtio 1.3 §2.1.2).
    pub(crate) fn require_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
        self.signal_config();
    }

    /// Whether the device gave up.
    pub(crate) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// Puts both registers to given values, without raising the line.
    pub(crate) fn set(&self, status: u32, needs_reset: bool) {
        self.status.store(status, Ordering::SeqCst);
        self.needs_reset.store(needs_reset, Ordering::SeqCst);
    }

    fn raise(&self, reason: u32) {
        self.status.fetch_or(reason, Ordering::SeqCst);
        // Fails only when the counter is at its limit, and then the event is pending anyway.
        let _ = self.event.write(1);
    }
}
