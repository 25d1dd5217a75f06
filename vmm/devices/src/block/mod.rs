//! Block devices (virtio 1.3 §5.2): the read-only layer disk and the writable upper disk.
//!
//! Both are there in every VM. While nothing stands behind one it has a single sector of zeros; a restored VM gets
//! its files before its first instruction, a running one further files for further containers, and both hear about the
//! new capacity by a configuration interrupt. Features and limits don't depend on the files, because the driver has
//! already read them when the bake was made.

mod disk;
mod request;
mod state;
#[cfg(test)]
mod tests;

use std::os::fd::AsRawFd;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::epoll::EventSet;

pub(crate) use disk::Disk;
pub(crate) use state::BlockState;

use crate::layout::{LAYERS_SERIAL, UPPER_SERIAL};
use crate::poll::{Poll, Watch};
use crate::ring::Rings;
use crate::transport::{Device, Identity, Page, read_from};
use crate::worker::Service;
use crate::{DeviceError, GuestRam};

/// Requests in flight.
const QUEUE_SIZE: u16 = 256;
/// Pieces of memory per request, without header and status.
const SEGMENTS: u32 = 254;
/// Requests completed before the driver is told; bounds how long the first of a burst waits.
const BUDGET: usize = 32;
/// Length of the configuration space up to its last field we offer (§5.2.4).
const CONFIG_BYTES: usize = 60;

const COMMON_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_RING_F_EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE;

/// Which of the two disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The image's layers.
    Layers,
    /// What the container writes.
    Upper,
}

/// A block device.
#[derive(Debug)]
pub(crate) struct Block {
    role: Role,
    /// Read by the worker while it serves; changed when files come and go.
    disk: RwLock<Disk>,
    rings: Rings,
}

impl Role {
    fn identity(self) -> Identity {
        let features = match self {
            Self::Layers => 1 << VIRTIO_BLK_F_RO,
            Self::Upper => 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
        };
        Identity {
            name: self.serial(),
            device_id: VIRTIO_ID_BLOCK,
            features: COMMON_FEATURES | features,
            queues: &[QUEUE_SIZE],
        }
    }

    /// Serial number by which the guest recognises the disk.
    pub(crate) fn serial(self) -> &'static str {
        match self {
            Self::Layers => LAYERS_SERIAL,
            Self::Upper => UPPER_SERIAL,
        }
    }
}

impl Block {
    /// A device in its reset state.
    pub(crate) fn new(role: Role, disk: Disk, ram: GuestRam, page: Page, poll: &Poll) -> Result<Self, DeviceError> {
        let rings = Rings::new(ram, page, role.identity().queues)?;
        for (token, notifier) in (0..).zip(rings.notifiers()) {
            poll.add(notifier.as_raw_fd(), token, Watch::Event)?;
        }
        Ok(Self { role, disk: RwLock::new(disk), rings })
    }

    /// The disk, to be changed; the worker waits meanwhile.
    pub(crate) fn disk_mut(&self) -> RwLockWriteGuard<'_, Disk> {
        self.disk.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> RwLockReadGuard<'_, Disk> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configuration space. Fields of features that aren't offered are zero.
fn config(sectors: u64) -> [u8; CONFIG_BYTES] {
    let mut space = [0; CONFIG_BYTES];
    let mut put = |at: usize, field: &[u8]| space[at..at + field.len()].copy_from_slice(field);
    put(0, &sectors.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &(disk::SECTOR_BYTES as u32).to_le_bytes());
    put(36, &request::MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &request::MAX_RANGES.to_le_bytes());
    put(44, &((disk::EXTENT_ALIGN / disk::SECTOR_BYTES) as u32).to_le_bytes());
    put(48, &request::MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &request::MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    space
}

impl Device for Block {
    fn identity(&self) -> Identity {
        self.role.identity()
    }

    fn rings(&self) -> &Rings {
        &self.rings
    }

    fn read_config(&self, at: usize, data: &mut [u8]) {
        read_from(&config(self.disk().sectors()), at, data);
    }

    fn reset(&self) {}
}

impl Service for Block {
    fn kick(&self) {
        let disk = self.disk();
        self.rings.serve(0, BUDGET, |chain| request::serve(&disk, self.role.serial(), chain));
    }

    fn handle(&self, _token: u32, _events: EventSet) {
        self.kick();
    }
}
