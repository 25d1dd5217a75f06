//! Where the pages of a bake's memory file belong.

use vm_memory::{Address, GuestMemory, GuestMemoryRegion};
use vmm_api::MemoryExtent;

use super::{GuestRam, PAGE_BYTES};

/// Most extents a bake may have: each costs one mapping at restore, and all must fit one control message.
pub const MAX_EXTENTS: usize = 2000;

/// A bake's extents do not fit its memory file or the machine.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// Too many.
    #[error("the bake has {count} memory extents, more than {MAX_EXTENTS}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Not ordered by guest page, or two share a page.
    #[error("the memory extent at guest page {guest_page:#x} is empty, out of order or overlaps the one before")]
    Order {
        /// First guest page of the extent.
        guest_page: u64,
    },
    /// The extent is outside guest memory.
    #[error("the memory extent at guest page {guest_page:#x} ({pages} pages) is outside guest memory")]
    OutsideMemory {
        /// First guest page of the extent.
        guest_page: u64,
        /// Number of pages.
        pages: u64,
    },
    /// The extent is outside the file.
    #[error("the memory extent at guest page {guest_page:#x} lies beyond the end of the memory file")]
    OutsideFile {
        /// First guest page of the extent.
        guest_page: u64,
    },
}

/// Extents that are known to lie inside their memory file and inside guest memory, in order, without overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents(Vec<MemoryExtent>);

impl Extents {
    /// Checks extents from an untrusted manifest.
    pub fn validate(extents: Vec<MemoryExtent>, file_bytes: u64, ram: &GuestRam) -> Result<Self, ExtentError> {
        if extents.len() > MAX_EXTENTS {
            return Err(ExtentError::TooMany { count: extents.len() });
        }
        let file_pages = file_bytes / PAGE_BYTES;
        let mut next_page = 0;
        for extent in &extents {
            let MemoryExtent { guest_page, file_page, pages } = *extent;
            if pages == 0 || guest_page < next_page {
                return Err(ExtentError::Order { guest_page });
            }
            if file_page.checked_add(pages).is_none_or(|end| end > file_pages) {
                return Err(ExtentError::OutsideFile { guest_page });
            }
            if !contains(ram, guest_page, pages) {
                return Err(ExtentError::OutsideMemory { guest_page, pages });
            }
            next_page = guest_page + pages;
        }
        Ok(Self(extents))
    }

    /// Those that have guest pages from `first` up to but not including `end`.
    pub fn within(&self, first: u64, end: u64) -> impl Iterator<Item = &MemoryExtent> {
        let start = self.0.partition_point(|extent| extent.guest_page + extent.pages <= first);
        self.0.iter().skip(start).take_while(move |extent| extent.guest_page < end)
    }
}

/// Whether one region of guest memory holds all the pages.
fn contains(ram: &GuestRam, guest_page: u64, pages: u64) -> bool {
    let Some(end_page) = guest_page.checked_add(pages) else { return false };
    ram.iter().any(|region| {
        let first = region.start_addr().raw_value() / PAGE_BYTES;
        let last = first + region.len() / PAGE_BYTES;
        (first..last).contains(&guest_page) && end_page <= last
    })
}

impl<'a> IntoIterator for &'a Extents {
    type Item = &'a MemoryExtent;
    type IntoIter = std::slice::Iter<'a, MemoryExtent>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::GuestAddress;

    use super::*;

    fn ram() -> GuestRam {
        crate::memory::reserve(&[(GuestAddress(0), 64 * 4096), (GuestAddress(128 * 4096), 64 * 4096)]).unwrap()
    }

    fn extent(guest_page: u64, file_page: u64, pages: u64) -> MemoryExtent {
        MemoryExtent { guest_page, file_page, pages }
    }

    #[test]
    fn good_extents_are_taken() {
        let good = vec![extent(0, 0, 4), extent(4, 4, 1), extent(128, 5, 64)];
        assert!(Extents::validate(good, 69 * 4096, &ram()).is_ok());
    }

    #[test]
    fn bad_extents_are_refused() {
        let check = |extents| Extents::validate(extents, 16 * 4096, &ram()).unwrap_err();
        assert_eq!(check(vec![extent(0, 0, 0)]), ExtentError::Order { guest_page: 0 });
        assert_eq!(check(vec![extent(4, 0, 2), extent(5, 2, 1)]), ExtentError::Order { guest_page: 5 });
        assert_eq!(check(vec![extent(0, 15, 2)]), ExtentError::OutsideFile { guest_page: 0 });
        assert_eq!(check(vec![extent(63, 0, 2)]), ExtentError::OutsideMemory { guest_page: 63, pages: 2 });
        assert_eq!(check(vec![extent(64, 0, 1)]), ExtentError::OutsideMemory { guest_page: 64, pages: 1 });
        assert_eq!(check(vec![extent(u64::MAX, 0, 1)]), ExtentError::OutsideMemory { guest_page: u64::MAX, pages: 1 });
        assert_eq!(check(vec![extent(0, u64::MAX, 2)]), ExtentError::OutsideFile { guest_page: 0 });
        assert_eq!(check(vec![extent(0, 0, 1); MAX_EXTENTS + 1]), ExtentError::TooMany { count: MAX_EXTENTS + 1 });
    }

    proptest! {
        #[test]
        fn whatever_is_taken_can_be_mapped(raw in prop::collection::vec((0..200u64, 0..20u64, 0..20u64), 0..8)) {
            let ram = ram();
            let file = tempfile::tempfile().unwrap();
            file.set_len(16 * 4096).unwrap();
            let extents = raw.into_iter().map(|(guest, file, pages)| extent(guest, file, pages)).collect();
            if let Ok(extents) = Extents::validate(extents, 16 * 4096, &ram) {
                let mut origin = crate::memory::Origin::default();
                origin.push(file, extents);
                origin.map(&ram).unwrap();
            }
        }
    }
}
