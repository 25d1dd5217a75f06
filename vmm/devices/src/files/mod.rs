//! File system device (virtio 1.3 §5.11): files of the host, in a file system that the guest mounts by its tag.
//!
//! It is there in every VM, but only some have a server behind it; the others refuse what they are asked. A guest is
//! captured before it mounts anything, so that there is no session to be saved.

mod notices;
mod server;
mod standing;
#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::epoll::EventSet;

pub use server::FileServer;

use crate::layout::FILES_TAG;
use crate::poll::{Poll, Watch};
use crate::ring::Rings;
use crate::sys::View;
use crate::transport::{Device, Identity, Page, read_from};
use crate::worker::Service;
use crate::{DeviceError, GuestRam};

/// Requests in flight of the queue for what can't wait: forgotten and interrupted requests.
const PRIORITY_QUEUE_SIZE: u16 = 64;
/// Requests in flight of the other, and with them the largest transfer: the kernel makes none of more pages.
const REQUEST_QUEUE_SIZE: u16 = 512;
/// Requests answered before the driver is told; bounds how long the first of a burst waits.
const BUDGET: usize = 8;
/// Bytes of a tag in the configuration space, padded with zeros (§5.11.4).
const TAG_BYTES: usize = 36;
/// Length of the configuration space.
const CONFIG_BYTES: usize = TAG_BYTES + 4;

const IDENTITY: Identity = Identity {
    name: "files",
    device_id: VIRTIO_ID_FS,
    features: 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC,
    queues: &[PRIORITY_QUEUE_SIZE, REQUEST_QUEUE_SIZE],
};

/// The file system device.
#[derive(Debug)]
pub(crate) struct Files {
    server: Option<FileServer>,
    view: View,
    rings: Rings,
    is_used: AtomicBool,
}

impl Files {
    /// A device in its reset state.
    pub(crate) fn new(ram: GuestRam, page: Page, server: Option<FileServer>, poll: &Poll) -> Result<Self, DeviceError> {
        let rings = Rings::new(ram.clone(), page, IDENTITY.queues)?;
        for (token, notifier) in (0..).zip(rings.notifiers()) {
            poll.add(notifier.as_raw_fd(), token, Watch::Event)?;
        }
        let view = View::of(ram).map_err(|source| DeviceError::Host { resource: "a view of its memory", source })?;
        Ok(Self { server, view, rings, is_used: AtomicBool::new(false) })
    }

    /// Whether the guest has asked for files: then there is a session, which can't be saved.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
    }

    fn serve(&self, queue: usize) {
        self.rings.serve(queue, BUDGET, |chain| {
            self.is_used.store(true, Ordering::Release);
            match &self.server {
                Some(server) => server.answer(&self.view, chain),
                None => server::refuse(&self.view, &chain),
            }
        });
    }
}

/// The configuration space: the tag, and one queue for requests.
fn config() -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    space[..FILES_TAG.len()].copy_from_slice(FILES_TAG.as_bytes());
    space[TAG_BYTES..].copy_from_slice(&1_u32.to_le_bytes());
    space
}

impl Device for Files {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn rings(&self) -> &Rings {
        &self.rings
    }

    fn read_config(&self, at: usize, data: &mut [u8]) {
        read_from(&config(), at, data);
    }

    fn reset(&self) {}
}

impl Service for Files {
    fn kick(&self) {
        (0..IDENTITY.queues.len()).for_each(|queue| self.serve(queue));
    }

    fn handle(&self, token: u32, _events: EventSet) {
        self.serve(token as usize);
    }
}
