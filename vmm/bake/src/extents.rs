//! Where the pages of a memory file belong in the guest.

use serde::{Deserialize, Serialize};

/// Size of a page in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// Most extents of one bake. Each is one mapping at restore, and all must fit one control message.
pub const MAX_EXTENTS: usize = 4096;

/// Guest memory below this address is one range; what is left begins at [`HIGH_RAM`].
const LOW_RAM_END: u64 = 3 << 30;
/// Where guest memory goes on above the hole for devices.
const HIGH_RAM: u64 = 4 << 30;

/// A run of guest pages and its place in the memory file, as read from outside: nothing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First guest page number (guest physical address / 4096).
    pub guest_page: u64,
    /// First page in the file.
    pub file_page: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Extents that fit a machine and a file: in rising order, apart from each other, inside guest memory, and covering
/// the file exactly, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents(Vec<Extent>);

/// Extents that can't be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentsError {
    /// More than [`MAX_EXTENTS`].
    #[error("{count} memory extents, at most {MAX_EXTENTS} are allowed")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// One extent covers no page, or its end overflows.
    #[error("memory extent {index} is empty or overflows")]
    BadLength {
        /// Its position.
        index: usize,
    },
    /// One begins before the end of its predecessor.
    #[error("memory extent {index} is out of order or overlaps the one before it")]
    OutOfOrder {
        /// Its position.
        index: usize,
    },
    /// One reaches outside guest memory.
    #[error("memory extent {index} lies outside of the guest's memory")]
    OutsideMemory {
        /// Its position.
        index: usize,
    },
    /// One doesn't follow its predecessor in the file.
    #[error("memory extent {index} doesn't follow the one before it in the file")]
    NotPacked {
        /// Its position.
        index: usize,
    },
    /// The file is longer or shorter than the extents say.
    #[error("the memory extents cover {covered} bytes, the file has {bytes}")]
    WrongFileSize {
        /// What they cover.
        covered: u64,
        /// Size of the file.
        bytes: u64,
    },
}

impl Extents {
    /// Checks extents against the guest's memory size and the size of the memory file, both in bytes.
    pub fn check(extents: Vec<Extent>, memory_bytes: u64, file_bytes: u64) -> Result<Self, ExtentsError> {
        if extents.len() > MAX_EXTENTS {
            return Err(ExtentsError::TooMany { count: extents.len() });
        }
        let (mut guest_end, mut file_end) = (0, 0);
        for (index, extent) in extents.iter().enumerate() {
            let end = extent.guest_page.checked_add(extent.pages).filter(|_| extent.pages > 0);
            let end = end.ok_or(ExtentsError::BadLength { index })?;
            if extent.guest_page < guest_end {
                return Err(ExtentsError::OutOfOrder { index });
            }
            if !is_ram(extent.guest_page, end, memory_bytes) {
                return Err(ExtentsError::OutsideMemory { index });
            }
            if extent.file_page != file_end {
                return Err(ExtentsError::NotPacked { index });
            }
            guest_end = end;
            // Can't overflow: the extents are apart from each other and inside guest memory.
            file_end += extent.pages;
        }
        let covered = file_end * PAGE_BYTES;
        if covered != file_bytes {
            return Err(ExtentsError::WrongFileSize { covered, bytes: file_bytes });
        }
        Ok(Self(extents))
    }

    /// The extents.
    pub fn as_slice(&self) -> &[Extent] {
        &self.0
    }
}

/// Whether the guest pages from `first` up to but not including `end` are memory, in one of its two ranges.
pub(crate) fn is_ram(first: u64, end: u64, memory_bytes: u64) -> bool {
    let low_end = memory_bytes.min(LOW_RAM_END) / PAGE_BYTES;
    let high = HIGH_RAM / PAGE_BYTES;
    let high_end = high.saturating_add(memory_bytes.saturating_sub(LOW_RAM_END) / PAGE_BYTES);
    end <= low_end || (first >= high && end <= high_end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(guest_page: u64, file_page: u64, pages: u64) -> Extent {
        Extent { guest_page, file_page, pages }
    }

    const MEMORY: u64 = 64 << 20;

    #[test]
    fn ordered_packed_extents_pass() {
        let extents = vec![extent(0, 0, 1), extent(1, 1, 2), extent(100, 3, 5)];
        assert!(Extents::check(extents, MEMORY, 8 * PAGE_BYTES).is_ok());
        assert!(Extents::check(vec![], MEMORY, 0).is_ok());
    }

    #[test]
    fn memory_above_the_hole_is_memory_and_the_hole_is_not() {
        let (memory, high) = (4 << 30, HIGH_RAM / PAGE_BYTES);
        let last = high + (1 << 30) / PAGE_BYTES - 1;
        assert!(Extents::check(vec![extent(high, 0, 1), extent(last, 1, 1)], memory, 2 * PAGE_BYTES).is_ok());
        for bad in [extent(high - 1, 0, 1), extent(last, 0, 2), extent((3 << 30) / PAGE_BYTES - 1, 0, 2)] {
            let error = Extents::check(vec![bad], memory, bad.pages * PAGE_BYTES).unwrap_err();
            assert_eq!(error, ExtentsError::OutsideMemory { index: 0 });
        }
    }

    #[test]
    fn each_fault_is_told_apart() {
        let pages = MEMORY / PAGE_BYTES;
        for (extents, file_pages, expected) in [
            (vec![extent(0, 0, 0)], 0, ExtentsError::BadLength { index: 0 }),
            (vec![extent(u64::MAX, 0, 1)], 1, ExtentsError::BadLength { index: 0 }),
            (vec![extent(5, 0, 2), extent(6, 2, 1)], 3, ExtentsError::OutOfOrder { index: 1 }),
            (vec![extent(pages - 1, 0, 2)], 2, ExtentsError::OutsideMemory { index: 0 }),
            (vec![extent(0, 0, 1), extent(2, 2, 1)], 3, ExtentsError::NotPacked { index: 1 }),
            (vec![extent(0, 0, 1)], 2, ExtentsError::WrongFileSize { covered: 4096, bytes: 8192 }),
        ] {
            assert_eq!(Extents::check(extents, MEMORY, file_pages * PAGE_BYTES).unwrap_err(), expected);
        }
        let many = (0..=MAX_EXTENTS as u64).map(|n| extent(2 * n, n, 1)).collect();
        assert_eq!(Extents::check(many, MEMORY, 0).unwrap_err(), ExtentsError::TooMany { count: MAX_EXTENTS + 1 });
    }

    proptest! {
        #[test]
        fn whatever_comes_in_passes_or_fails_without_a_panic(
            raw in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20),
            memory: u64, file: u64,
        ) {
            let extents = raw.into_iter().map(|(guest, file, pages)| extent(guest, file, pages)).collect();
            if let Ok(extents) = Extents::check(extents, memory, file) {
                let pages: u64 = extents.as_slice().iter().map(|extent| extent.pages).sum();
                prop_assert_eq!(pages * PAGE_BYTES, file);
            }
        }
    }
}
