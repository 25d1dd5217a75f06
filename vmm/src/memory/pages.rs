//! Finding the pages worth keeping and writing them to a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryRegion};
use vmm_api::MemoryExtent;

use super::{GuestRam, Origin, PAGE_BYTES};

/// How much is read from the guest and written to the file at once, in pages.
const CHUNK_PAGES: u64 = 256;
/// Unchanged pages between two runs that are written rather than split: one mapping at restore costs more than they do.
const SMALLEST_GAP: u64 = 16;
/// Runs to aim for: a mapping each, about a microsecond at every restore.
const TARGET_RUNS: usize = 256;

/// Guest memory could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Guest memory could not be read.
    #[error("cannot read guest memory")]
    Read(#[source] vm_memory::GuestMemoryError),
    /// What it was before could not be read.
    #[error("cannot read the memory file of the bake that the guest was restored from")]
    Origin(#[source] std::io::Error),
    /// The file could not be written.
    #[error("cannot write the bake's memory file; is the disk full?")]
    Write(#[source] std::io::Error),
}

/// Which pages of a stopped guest aren't what they were before its first instruction.
#[derive(Debug)]
pub struct PageMap {
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    guest_page: u64,
    pages: u64,
}

impl PageMap {
    /// Reads all of guest memory, which was as `origin` has it.
    pub fn scan(ram: &GuestRam, origin: &Origin) -> Result<Self, CaptureError> {
        let mut regions = Vec::new();
        let (mut chunk, mut before) = (vec![0; bytes(CHUNK_PAGES)], vec![0; bytes(CHUNK_PAGES)]);
        for region in ram.iter() {
            let mut changed = Vec::new();
            let pages = region.len() / PAGE_BYTES;
            let first = region.start_addr().raw_value() / PAGE_BYTES;
            for start in (0..pages).step_by(CHUNK_PAGES as usize) {
                let part = &mut chunk[..bytes(CHUNK_PAGES.min(pages - start))];
                ram.read_slice(part, GuestAddress((first + start) * PAGE_BYTES)).map_err(CaptureError::Read)?;
                if origin.is_empty() {
                    changed.extend(part.chunks_exact(bytes(1)).map(holds_something));
                    continue;
                }
                let before = &mut before[..part.len()];
                origin.read(first + start, before).map_err(CaptureError::Origin)?;
                changed.extend(
                    part.chunks_exact(bytes(1)).zip(before.chunks_exact(bytes(1))).map(|(now, then)| now != then),
                );
            }
            regions.push(runs_of(&changed, first).collect());
        }
        Ok(Self { runs: merge(regions) })
    }

    /// Writes the pages to an empty file, packed, and says where they belong. Those that are zeros are holes in it, which take
    /// no room on the disk.
    pub fn write(&self, ram: &GuestRam, file: &File) -> Result<Vec<MemoryExtent>, CaptureError> {
        let mut extents = Vec::with_capacity(self.runs.len());
        let mut chunk = vec![0; bytes(CHUNK_PAGES)];
        let mut file_page = 0;
        for &Run { guest_page, pages } in &self.runs {
            for start in (0..pages).step_by(CHUNK_PAGES as usize) {
                let part = &mut chunk[..bytes(CHUNK_PAGES.min(pages - start))];
                ram.read_slice(part, GuestAddress((guest_page + start) * PAGE_BYTES)).map_err(CaptureError::Read)?;
                write_but_zeros(part, file, (file_page + start) * PAGE_BYTES).map_err(CaptureError::Write)?;
            }
            extents.push(MemoryExtent { guest_page, file_page, pages });
            file_page += pages;
        }
        file.set_len(file_page * PAGE_BYTES).map_err(CaptureError::Write)?;
        Ok(extents)
    }
}

/// Writes the pages that hold something where they belong.
fn write_but_zeros(pages: &[u8], file: &File, offset: u64) -> io::Result<()> {
    let each: Vec<_> = pages.chunks_exact(bytes(1)).map(holds_something).collect();
    for Run { guest_page: first, pages: count } in runs_of(&each, 0) {
        let at = first * PAGE_BYTES;
        file.write_all_at(&pages[bytes(first)..bytes(first + count)], offset + at)?;
    }
    Ok(())
}

/// Bytes of a number of pages that is known to be small.
fn bytes(pages: u64) -> usize {
    (pages * PAGE_BYTES) as usize
}

fn holds_something(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<16>();
    words.iter().any(|word| u128::from_ne_bytes(*word) != 0) || rest.iter().any(|byte| *byte != 0)
}

/// Runs of changed pages in one region.
fn runs_of(changed: &[bool], first_page: u64) -> impl Iterator<Item = Run> {
    let mut start = first_page;
    changed.chunk_by(|a, b| a == b).filter_map(move |chunk| {
        let run = Run { guest_page: start, pages: chunk.len() as u64 };
        start += run.pages;
        chunk[0].then_some(run)
    })
}

/// Joins runs over gaps inside a region, with a growing idea of what a small gap is, until few enough are left.
fn merge(mut regions: Vec<Vec<Run>>) -> Vec<Run> {
    let mut gap = SMALLEST_GAP;
    loop {
        regions = regions.into_iter().map(|runs| join(runs, gap)).collect();
        let few = regions.iter().all(|runs| runs.len() <= 1);
        if few || regions.iter().map(Vec::len).sum::<usize>() <= TARGET_RUNS {
            return regions.into_iter().flatten().collect();
        }
        gap = gap.saturating_mul(2);
    }
}

/// Joins runs that fewer than `gap` pages separate.
fn join(runs: Vec<Run>, gap: u64) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.guest_page - (last.guest_page + last.pages) < gap => {
                last.pages = run.guest_page + run.pages - last.guest_page;
            }
            _ => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::memory::{Extents, MAX_EXTENTS, Origin, reserve};

    const PAGES: u64 = 8192;

    fn ram() -> GuestRam {
        reserve(&[(GuestAddress(0), bytes(PAGES)), (GuestAddress(4 << 30), bytes(PAGES))]).unwrap()
    }

    #[test]
    fn zero_pages_are_dropped_and_the_rest_comes_back() {
        let ram = ram();
        let pages = [0, 1, 40, 300, PAGES - 1, (4 << 30) / 4096 + 7];
        for page in pages {
            ram.write_obj(page + 1, GuestAddress(page * 4096 + 8)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        let extents = PageMap::scan(&ram, &Origin::default()).unwrap().write(&ram, &file).unwrap();
        assert_eq!(extents.len(), 5);
        assert_eq!(file.metadata().unwrap().len(), 6 * 4096);
        assert_eq!(file.metadata().unwrap().blocks() * 512, 6 * 4096);
        let again = super::tests::ram();
        let mut origin = Origin::default();
        origin.push(file.try_clone().unwrap(), Extents::validate(extents, 6 * 4096, &again).unwrap());
        origin.map(&again).unwrap();
        for page in pages {
            assert_eq!(again.read_obj::<u64>(GuestAddress(page * 4096 + 8)).unwrap(), page + 1);
        }
        let mut first = [0; 16];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn of_a_restored_guest_what_has_changed_is_kept_zeros_among_it() {
        let ram = ram();
        for page in [5, 6, 200] {
            ram.write_obj(page, GuestAddress(page * 4096)).unwrap();
        }
        let first = tempfile::tempfile().unwrap();
        let extents = PageMap::scan(&ram, &Origin::default()).unwrap().write(&ram, &first).unwrap();
        let mut origin = Origin::default();
        let validate = |extents, file: &File| Extents::validate(extents, file.metadata().unwrap().len(), &ram).unwrap();
        origin.push(first.try_clone().unwrap(), validate(extents, &first));
        let unchanged = PageMap::scan(&ram, &origin).unwrap().write(&ram, &tempfile::tempfile().unwrap()).unwrap();
        assert_eq!(unchanged, []);
        ram.write_obj(0u64, GuestAddress(6 * 4096)).unwrap();
        ram.write_obj(9u64, GuestAddress(1000 * 4096)).unwrap();
        let second = tempfile::tempfile().unwrap();
        let extents = PageMap::scan(&ram, &origin).unwrap().write(&ram, &second).unwrap();
        assert_eq!(
            extents.iter().map(|extent| (extent.guest_page, extent.pages)).collect::<Vec<_>>(),
            [(6, 1), (1000, 1)]
        );
        origin.push(second.try_clone().unwrap(), validate(extents, &second));
        let again = super::tests::ram();
        origin.map(&again).unwrap();
        let read = [5, 6, 200, 1000].map(|page| again.read_obj::<u64>(GuestAddress(page * 4096)).unwrap());
        assert_eq!(read, [5, 0, 200, 9]);
    }

    #[test]
    fn scattered_pages_stay_within_the_limit() {
        let runs: Vec<_> = (0..100_000).map(|n| Run { guest_page: n * 40, pages: 1 }).collect();
        let merged = merge(vec![runs]);
        assert!(merged.len() <= TARGET_RUNS && TARGET_RUNS < MAX_EXTENTS);
        assert_eq!(merged[0].guest_page, 0);
        let last = merged[merged.len() - 1];
        assert_eq!(last.guest_page + last.pages, 99_999 * 40 + 1);
    }

    #[test]
    fn small_gaps_are_joined_and_large_ones_are_not() {
        let run = |guest_page, pages| Run { guest_page, pages };
        assert_eq!(merge(vec![vec![run(0, 1), run(5, 1)], vec![run(22, 1)]]), vec![run(0, 6), run(22, 1)]);
        assert_eq!(merge(vec![vec![run(0, 1), run(5, 1), run(22, 1)]]), vec![run(0, 6), run(22, 1)]);
    }
}
