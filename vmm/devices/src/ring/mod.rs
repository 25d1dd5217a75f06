//! Virtqueues: requests from the driver, taken one by one and given back.
//!
//! [`Rings`] is the part of a slot that the vCPU threads (through the register file) and the device's worker share.
//! Everything in the rings and in the memory they point to is under the guest's control at all times.

mod buffers;
mod chain;
mod interrupt;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

pub(crate) use buffers::Buffers;
pub(crate) use chain::{Chain, Request};
pub(crate) use interrupt::Interrupt;
pub use interrupt::InterruptLine;
pub(crate) use queue::{Broken, Ring, RingState};

use crate::poll::new_event;
use crate::transport::Page;
use crate::{DeviceError, GuestRam};

/// The queues of one device, its interrupt line and its notifications.
#[derive(Debug)]
pub(crate) struct Rings {
    /// Guest memory.
    pub(crate) ram: GuestRam,
    /// The register page of the device's slot.
    pub(crate) page: Page,
    /// The device's interrupt line.
    pub(crate) interrupt: Interrupt,
    notifiers: Vec<EventFd>,
    queues: Mutex<Queues>,
}

/// The queues themselves.
#[derive(Debug)]
pub(crate) struct Queues {
    /// The driver finished the set-up; only then may the device touch guest memory.
    pub(crate) active: bool,
    /// By queue index.
    pub(crate) rings: Vec<Ring>,
}

impl Rings {
    /// Queues in their reset state, of the slot with this page.
    pub(crate) fn new(ram: GuestRam, page: Page, sizes: &[u16]) -> Result<Self, DeviceError> {
        let invalid = |_| DeviceError::State { device: "a queue", reason: "its size is not a power of two" };
        Ok(Self {
            ram,
            interrupt: Interrupt::new(page.clone())?,
            page,
            notifiers: sizes.iter().map(|_| new_event()).collect::<Result<_, _>>()?,
            queues: Mutex::new(Queues {
                active: false,
                rings: sizes.iter().map(|&size| Ring::new(size).map_err(invalid)).collect::<Result<_, _>>()?,
            }),
        })
    }

    /// The events by which the driver says that a queue has requests, by queue index.
    pub(crate) fn notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    /// Says that a queue has requests; unknown queues are ignored.
    pub(crate) fn notify(&self, queue: usize) {
        if let Some(notifier) = self.notifiers.get(queue) {
            // Fails only when the counter is at its limit, and then the event is pending anyway.
            let _ = notifier.write(1);
        }
    }

    /// Takes the queues; whoever holds them keeps everyone else away.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queues> {
        // A worker that panicked leaves rings that the guest could have written just as well.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves up to `budget` requests of a queue, then raises the interrupt once if the driver wants it.
    ///
    /// `serve` answers a request and returns the bytes it wrote to it. When requests are left the queue notifies
    /// itself, so that its worker comes back after it has looked at everything else.
    pub(crate) fn serve(&self, index: usize, budget: usize, serve: impl FnMut(Chain<'_>) -> u32) {
        let mut queues = self.lock();
        if !queues.active {
            return;
        }
        let Some(ring) = queues.rings.get_mut(index) else { return };
        match self.serve_ring(ring, budget, serve) {
            Ok(true) => self.notify(index),
            Ok(false) => {}
            Err(broken) => self.give_up(&mut queues, &broken),
        }
    }

    /// Stops the device until the driver resets it.
    pub(crate) fn give_up(&self, queues: &mut Queues, broken: &Broken) {
        tracing::warn!(error = ?broken, "a device stops because its driver broke a ring");
        queues.active = false;
        self.interrupt.require_reset();
    }

    /// Returns whether requests may be left.
    fn serve_ring(
        &self,
        ring: &mut Ring,
        budget: usize,
        mut serve: impl FnMut(Chain<'_>) -> u32,
    ) -> Result<bool, Broken> {
        let mut served = 0;
        ring.disarm(&self.ram)?;
        while served < budget {
            let Some(chain) = ring.pop_or_arm(&self.ram)? else { break };
            let head = chain.head;
            let written = serve(chain);
            ring.push(&self.ram, head, written)?;
            served += 1;
        }
        if served > 0 && ring.wants_interrupt(&self.ram)? {
            self.interrupt.signal_used();
        }
        Ok(served == budget)
    }
}
