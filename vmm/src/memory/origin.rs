//! What a guest's memory was before its first instruction here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};
use vmm_api::{MemoryExtent, PageRun};

use super::{Extents, GuestRam, MemoryError, PAGE_BYTES, overlay};

/// Most memory files that lie over each other: a base bake's, an image's, a warm one's.
pub const MAX_FILES: usize = 3;

/// How many pages are compared at once.
const CHUNK_PAGES: u64 = 64;

/// Memory files of bakes, lowest first. Of a page that several have, the last one's counts; one that none has is zero.
/// Without any it is the memory of a machine that boots.
#[derive(Debug, Default)]
pub struct Origin(Vec<(File, Extents)>);

impl Origin {
    /// Puts a file over those there are.
    pub fn push(&mut self, file: File, extents: Extents) {
        self.0.push((file, extents));
    }

    /// Whether all of it is zero.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts it in place, privately: guest writes never reach the files.
    pub fn map(&self, ram: &GuestRam) -> Result<(), MemoryError> {
        self.0.iter().try_for_each(|(file, extents)| overlay(ram, file, extents))
    }

    /// Which pages of the files hold something else by now: at most so many runs of them. A guest that runs may be halfway
    /// through a page.
    pub fn written(&self, ram: &GuestRam, most: usize) -> io::Result<Vec<PageRun>> {
        let mut written = Vec::new();
        let (mut now, mut before) = (vec![0; offset(CHUNK_PAGES)], vec![0; offset(CHUNK_PAGES)]);
        for MemoryExtent { guest_page, pages, .. } in self.0.iter().flat_map(|(_, extents)| extents) {
            for start in (*guest_page..guest_page + pages).step_by(CHUNK_PAGES as usize) {
                let bytes = offset(CHUNK_PAGES.min(guest_page + pages - start));
                let (now, before) = (&mut now[..bytes], &mut before[..bytes]);
                ram.read_slice(now, GuestAddress(start * PAGE_BYTES)).map_err(io::Error::other)?;
                self.read(start, before)?;
                written.extend(changed(start, now, before));
            }
        }
        // Several files may have a page.
        written.sort_unstable();
        written.dedup();
        Ok(runs(&written, most))
    }

    /// Reads whole pages from a guest page on.
    pub fn read(&self, first_page: u64, pages: &mut [u8]) -> io::Result<()> {
        pages.fill(0);
        let end_page = first_page + pages.len() as u64 / PAGE_BYTES;
        for (file, extents) in &self.0 {
            for extent in extents.within(first_page, end_page) {
                let MemoryExtent { guest_page, file_page, .. } = *extent;
                let (start, end) = (guest_page.max(first_page), (guest_page + extent.pages).min(end_page));
                let part = &mut pages[offset(start - first_page)..offset(end - first_page)];
                file.read_exact_at(part, (file_page + start - guest_page) * PAGE_BYTES)?;
            }
        }
        Ok(())
    }
}

/// Which of some pages, from `first` on, are different now.
fn changed(first: u64, now: &[u8], before: &[u8]) -> impl Iterator<Item = u64> {
    let pages = now.chunks(offset(1)).zip(before.chunks(offset(1)));
    (first..).zip(pages).filter_map(|(page, (now, before))| (now != before).then_some(page))
}

/// Runs of pages in rising order, at most so many.
fn runs(pages: &[u64], most: usize) -> Vec<PageRun> {
    let chunks = pages.chunk_by(|page, next| page + 1 == *next).take(most);
    chunks.map(|run| PageRun { guest_page: run[0], pages: run.len() as u64 }).collect()
}

/// Where a page is in a buffer.
fn offset(page: u64) -> usize {
    (page * PAGE_BYTES) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::reserve;

    fn file(pages: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = pages.iter().flat_map(|&page| [page; PAGE_BYTES as usize]).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    fn extents(ram: &GuestRam, extents: &[(u64, u64, u64)], pages: u64) -> Extents {
        let extent = |&(guest_page, file_page, pages)| MemoryExtent { guest_page, file_page, pages };
        Extents::validate(extents.iter().map(extent).collect(), pages * PAGE_BYTES, ram).unwrap()
    }

    #[test]
    fn pages_of_the_files_that_were_written_to_are_listed() {
        let ram = reserve(&[(GuestAddress(0), 16 * 4096)]).unwrap();
        let mut origin = Origin::default();
        origin.push(file(&[1, 2, 3, 4]), extents(&ram, &[(2, 0, 3), (9, 3, 1)], 4));
        origin.push(file(&[5, 6]), extents(&ram, &[(3, 0, 1), (12, 1, 1)], 2));
        origin.map(&ram).unwrap();
        assert_eq!(origin.written(&ram, 9).unwrap(), []);
        for page in [3, 4, 7, 12] {
            ram.write_obj(99u8, GuestAddress(page * PAGE_BYTES + 70)).unwrap();
        }
        let run = |guest_page, pages| PageRun { guest_page, pages };
        assert_eq!(origin.written(&ram, 9).unwrap(), [run(3, 2), run(12, 1)]);
        assert_eq!(origin.written(&ram, 1).unwrap(), [run(3, 2)]);
    }

    #[test]
    fn the_last_file_s_pages_count_in_memory_and_when_read() {
        let ram = reserve(&[(GuestAddress(0), 16 * 4096)]).unwrap();
        let mut origin = Origin::default();
        origin.push(file(&[1, 2, 3, 4]), extents(&ram, &[(2, 0, 3), (9, 3, 1)], 4));
        origin.push(file(&[5, 6]), extents(&ram, &[(3, 0, 1), (12, 1, 1)], 2));
        origin.map(&ram).unwrap();
        let wanted = [0, 0, 1, 5, 3, 0, 0, 0, 0, 4, 0, 0, 6, 0, 0, 0];
        for (page, wanted) in (0..).zip(wanted) {
            assert_eq!(ram.read_obj::<u8>(GuestAddress(page * PAGE_BYTES + 7)).unwrap(), wanted, "page {page}");
        }
        for (first, count) in [(0, 16), (3, 1), (4, 6), (0, 3), (10, 6)] {
            let mut pages = vec![9; offset(count)];
            origin.read(first, &mut pages).unwrap();
            let read: Vec<u8> = pages.chunks(offset(1)).map(|page| page[7]).collect();
            assert_eq!(read, wanted[first as usize..(first + count) as usize], "{count} from {first}");
        }
    }
}
