//! Guest memory under another type.

use std::io;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use crate::GuestRam;

/// Guest memory in the one type that the `virtiofsd` library takes. What it writes isn't recorded anywhere.
#[derive(Debug)]
pub(crate) struct View {
    memory: GuestMemoryMmap<BitmapMmapRegion>,
    /// Keeps the memory mapped.
    _ram: GuestRam,
}

impl View {
    pub(crate) fn of(ram: GuestRam) -> io::Result<Self> {
        let regions = ram.iter().map(|region| {
            let (protection, flags) = (region.prot(), region.flags());
            // SAFETY: the mapping exists as long as `ram`, which the view holds and which is dropped after `memory`. A
            // region that was built from a pointer doesn't unmap it.
            let mapping = unsafe { MmapRegion::build_raw(region.as_ptr(), region.size(), protection, flags) };
            GuestRegionMmap::new(mapping.map_err(io::Error::other)?, region.start_addr())
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
        });
        let regions = regions.collect::<io::Result<Vec<_>>>()?;
        let memory = GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?;
        Ok(Self { memory, _ram: ram })
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap<BitmapMmapRegion> {
        &self.memory
    }
}
