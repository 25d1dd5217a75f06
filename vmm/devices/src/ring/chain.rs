//! One request of the driver: a chain of descriptors, gathered and checked.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestUsize};

use super::Buffers;
use crate::GuestRam;

/// Most pieces of memory in one request. The disks announce 254 segments, the kernel adds a header and a status.
const MAX_PIECES: usize = 512;

/// A request taken from a ring. Whatever its contents, its head has to be given back with
/// [`Queue::push`](super::Ring::push).
#[derive(Debug)]
pub(crate) struct Chain<'m> {
    /// Index by which the driver knows the request.
    pub(crate) head: u16,
    /// The memory it refers to, or why that can't be used.
    pub(crate) request: Result<Request<'m>, Malformed>,
    /// The same as the ring has it, for libraries that gather it themselves: the guest may have changed it since.
    pub(crate) descriptors: DescriptorChain<&'m GuestRam>,
}

/// The memory of a request.
#[derive(Debug, Default)]
pub(crate) struct Request<'m> {
    /// What the device reads.
    pub(crate) readable: Buffers<'m>,
    /// What the device writes.
    pub(crate) writable: Buffers<'m>,
}

/// The driver broke a rule of virtio 1.3 §2.7 in one request; the ring itself is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    /// More than [`MAX_PIECES`].
    #[error("a request has more than {MAX_PIECES} pieces")]
    TooLong,
    /// Outside of RAM.
    #[error("a request refers to memory that doesn't exist")]
    OutsideRam,
    /// §2.7.4.2: readable descriptors come first.
    #[error("a request has a readable descriptor after a writable one")]
    Order,
}

impl<'m> Chain<'m> {
    pub(super) fn gather(descriptors: DescriptorChain<&'m GuestRam>, ram: &'m GuestRam) -> Self {
        let request = Request::gather(descriptors.clone(), ram);
        Self { head: descriptors.head_index(), request, descriptors }
    }
}

impl<'m> Request<'m> {
    /// Ends even on a chain that loops: the iterator yields at most a table's length of descriptors.
    fn gather(descriptors: DescriptorChain<&'m GuestRam>, ram: &'m GuestRam) -> Result<Self, Malformed> {
        let mut request = Self::default();
        for (position, descriptor) in descriptors.enumerate() {
            if position >= MAX_PIECES {
                return Err(Malformed::TooLong);
            }
            let target = if descriptor.is_write_only() {
                &mut request.writable
            } else if request.writable.slices().is_empty() {
                &mut request.readable
            } else {
                return Err(Malformed::Order);
            };
            // A descriptor that crosses from one region of RAM into the next is legal and becomes two pieces.
            let bytes = usize::try_from(descriptor.len()).ok().ok_or(Malformed::OutsideRam)?;
            if !in_ram(ram, descriptor.addr().0, GuestUsize::from(descriptor.len())) {
                return Err(Malformed::OutsideRam);
            }
            for slice in ram.get_slices(descriptor.addr(), bytes) {
                target.push(slice.ok().ok_or(Malformed::OutsideRam)?);
            }
        }
        Ok(request)
    }
}

/// Whether all of `bytes` bytes at `address` are RAM.
pub(super) fn in_ram(ram: &GuestRam, address: u64, bytes: u64) -> bool {
    let Ok(length) = usize::try_from(bytes) else { return false };
    address.checked_add(bytes).is_some() && ram.check_range(vm_memory::GuestAddress(address), length)
}
