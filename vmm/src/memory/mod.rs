//! Guest memory: every `mmap` of this process.
#![expect(unsafe_code, reason = "mapping files over guest memory has no safe interface")]

mod extents;
mod origin;
mod pages;

pub use extents::{ExtentError, Extents, MAX_EXTENTS};
pub use origin::{MAX_FILES, Origin};
pub use pages::{CaptureError, PageMap};

use std::fs::File;
use std::os::fd::AsRawFd;

use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryRegion, GuestRegionMmap, MmapRegion};
use vmm_api::PageRun;

pub use devices::GuestRam;

/// Size of a page, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// Guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Address space could not be reserved.
    #[error("cannot reserve {bytes} bytes of guest memory at {start:#x}")]
    Reserve {
        /// Guest physical address of the range.
        start: u64,
        /// Its length.
        bytes: usize,
        /// What the mapping said.
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The ranges do not form a guest memory.
    #[error("the guest memory ranges overlap or wrap around")]
    Ranges,
    /// An extent of the bake's memory could not be mapped.
    #[error("cannot map {pages} pages of the bake's memory at guest page {guest_page:#x}")]
    Map {
        /// First guest page.
        guest_page: u64,
        /// Number of pages.
        pages: u64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Lets all threads share the first thread's heap. A heap of its own costs each thread four system calls at its first
/// allocation, and the threads of a VMM allocate next to nothing.
pub fn share_one_heap() {
    // SAFETY: changes a setting of the allocator; callable at any time.
    let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    debug_assert_eq!(accepted, 1);
}

/// Bytes of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Reserves zeroed private memory for the ranges; nothing is populated. All but the first, which holds what a bake does, have
/// huge pages if the host gives any: the guest writes 2 MiB to describe each 128 MiB of them before it does anything else,
/// which would be an exit for each 4 KiB.
pub fn reserve(ranges: &[(GuestAddress, usize)]) -> Result<GuestRam, MemoryError> {
    let mut regions = Vec::with_capacity(ranges.len());
    for &(start, bytes) in ranges {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let mapping = MmapRegion::build(None, bytes, libc::PROT_READ | libc::PROT_WRITE, flags)
            .map_err(|source| MemoryError::Reserve { start: start.raw_value(), bytes, source })?;
        if !regions.is_empty() && bytes >= HUGE_PAGE_BYTES {
            // SAFETY: advice about memory that `mapping` owns changes nothing of what is in it. A host that has no huge pages
            // refuses, which is as good.
            let _advised = unsafe { libc::madvise(mapping.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        regions.push(GuestRegionMmap::new(mapping, start).ok_or(MemoryError::Ranges)?);
    }
    GuestRam::from_regions(regions).map_err(|_overlap| MemoryError::Ranges)
}

/// Puts the file's pages in place, privately: guest writes never reach the file. Pages outside the extents stay zero.
fn overlay(ram: &GuestRam, file: &File, extents: &Extents) -> Result<(), MemoryError> {
    for extent in extents {
        let failed = |source| MemoryError::Map { guest_page: extent.guest_page, pages: extent.pages, source };
        let outside = || failed(std::io::Error::from_raw_os_error(libc::ENXIO));
        let start = GuestAddress(extent.guest_page * PAGE_BYTES);
        let bytes = usize::try_from(extent.pages * PAGE_BYTES).map_err(|_too_large| outside())?;
        let region = ram.find_region(start).ok_or_else(outside)?;
        let offset = start.unchecked_offset_from(region.start_addr());
        if offset + extent.pages * PAGE_BYTES > region.len() {
            return Err(outside());
        }
        let host = region.get_host_address(vm_memory::MemoryRegionAddress(offset)).map_err(|_gone| outside())?;
        let file_offset = libc::off_t::try_from(extent.file_page * PAGE_BYTES).map_err(|_too_large| outside())?;
        // SAFETY: `host..host + bytes` lies inside one mapping that `ram` owns, checked above, so MAP_FIXED replaces
        // guest memory only. `Extents` lie inside the file, so that no access faults with SIGBUS unless the file is
        // truncated, which the store's owner never does.
        let mapped = unsafe {
            libc::mmap(
                host.cast(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                file_offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(failed(std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Makes the pages that a guest is known to write to its own before it does: each that it found as the file has it would take
/// it three exits to write to, the second of them with a copy under a lock. What can't be done costs time only.
pub fn copy_ahead(ram: &GuestRam, written: &[PageRun]) {
    for &PageRun { guest_page, pages } in written {
        // Before Linux 5.14 the advice isn't known.
        if copy_pages(ram, guest_page, pages).is_err() {
            return;
        }
    }
}

fn copy_pages(ram: &GuestRam, guest_page: u64, pages: u64) -> std::io::Result<()> {
    let outside = || std::io::Error::from_raw_os_error(libc::ENXIO);
    let start = guest_page.checked_mul(PAGE_BYTES).map(GuestAddress).ok_or_else(outside)?;
    let bytes = pages.checked_mul(PAGE_BYTES).and_then(|bytes| usize::try_from(bytes).ok()).ok_or_else(outside)?;
    let slice = ram.get_slice(start, bytes).map_err(|_outside| outside())?;
    // SAFETY: the range lies in one mapping that `ram` owns, as the slice does, and the advice changes nothing of what is in
    // it: private pages take the place of the file's, with the same content.
    let advised = unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
    if advised == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use vm_memory::Bytes;
    use vmm_api::MemoryExtent;

    use super::*;

    #[test]
    fn an_overlay_shows_the_file_and_keeps_guest_writes_private() {
        let ram = reserve(&[(GuestAddress(0), 16 * 4096)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.write_all(&[2; 4096]).unwrap();
        let wanted = vec![MemoryExtent { guest_page: 3, file_page: 1, pages: 1 }];
        let extents = Extents::validate(wanted, 2 * 4096, &ram).unwrap();
        overlay(&ram, &file, &extents).unwrap();
        assert_eq!(ram.read_obj::<u8>(GuestAddress(3 * 4096)).unwrap(), 2);
        assert_eq!(ram.read_obj::<u8>(GuestAddress(4 * 4096)).unwrap(), 0);
        ram.write_obj(9u8, GuestAddress(3 * 4096)).unwrap();
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 4096).unwrap();
        assert_eq!(byte, [2]);
    }

    #[test]
    fn pages_that_are_copied_ahead_hold_what_they_held_and_runs_outside_of_memory_are_passed_over() {
        let ram = reserve(&[(GuestAddress(0), 16 * 4096)]).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 2 * 4096]).unwrap();
        let wanted = vec![MemoryExtent { guest_page: 3, file_page: 0, pages: 2 }];
        overlay(&ram, &file, &Extents::validate(wanted, 2 * 4096, &ram).unwrap()).unwrap();
        let private = || {
            let address = ram.get_host_address(GuestAddress(4 * 4096)).unwrap() as usize;
            let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let range = format!("{:x}-", address - 4096);
            let mapping = smaps.lines().skip_while(|line| !line.starts_with(&range));
            mapping.map(str::to_owned).find(|line| line.starts_with("Private_Dirty:")).unwrap()
        };
        assert!(private().contains(" 0 kB"));
        copy_ahead(&ram, &[PageRun { guest_page: 4, pages: 1 }]);
        assert!(private().contains(" 4 kB"));
        assert_eq!(ram.read_obj::<u8>(GuestAddress(4 * 4096 + 9)).unwrap(), 7);
        for (guest_page, pages) in [(16, 1), (15, 2), (u64::MAX, 1), (3, u64::MAX)] {
            assert!(copy_pages(&ram, guest_page, pages).is_err());
        }
    }
}
