//! Entropy source (virtio 1.3 §5.4): the host's random bytes.

#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vmm_sys_util::epoll::EventSet;

use crate::poll::{Poll, Watch};
use crate::ring::{Chain, Rings};
use crate::transport::{Device, Identity, Page};
use crate::worker::Service;
use crate::{DeviceError, GuestRam};

/// Requests in flight; the kernel makes one at a time.
const QUEUE_SIZE: u16 = 16;
/// Most bytes given per request (§5.4.6.1 allows fewer than asked for).
const MAX_BYTES: usize = 1024;

const IDENTITY: Identity = Identity {
    name: "rng",
    device_id: VIRTIO_ID_RNG,
    features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX,
    queues: &[QUEUE_SIZE],
};

/// The entropy source. It has no state of its own: a restored guest gets fresh bytes.
#[derive(Debug)]
pub(crate) struct Rng {
    rings: Rings,
}

impl Rng {
    /// A device in its reset state.
    pub(crate) fn new(ram: GuestRam, page: Page, poll: &Poll) -> Result<Self, DeviceError> {
        let rings = Rings::new(ram, page, IDENTITY.queues)?;
        for (token, notifier) in (0..).zip(rings.notifiers()) {
            poll.add(notifier.as_raw_fd(), token, Watch::Event)?;
        }
        Ok(Self { rings })
    }
}

impl Device for Rng {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn rings(&self) -> &Rings {
        &self.rings
    }

    fn read_config(&self, _at: usize, _data: &mut [u8]) {}

    fn reset(&self) {}
}

impl Service for Rng {
    fn kick(&self) {
        self.rings.serve(0, usize::from(QUEUE_SIZE), serve);
    }

    fn handle(&self, _token: u32, _events: EventSet) {
        self.kick();
    }
}

/// Writes random bytes to a request; returns how many.
fn serve(chain: Chain<'_>) -> u32 {
    let Ok(request) = chain.request else { return 0 };
    let mut bytes = [0; MAX_BYTES];
    let wanted = request.writable.bytes().min(MAX_BYTES);
    let given = match getrandom(&mut bytes[..wanted], GetRandomFlags::NONBLOCK) {
        Ok(given) => given,
        Err(error) => {
            tracing::debug!(%error, "the host has no random bytes yet");
            0
        }
    };
    u32::try_from(request.writable.copy_from(&bytes[..given])).unwrap_or(0)
}
