//! Memory that nobody uses and that isn't zeros: a capture would keep it.

use std::fs;
use std::hint::black_box;
use std::io;

/// Free blocks of each zone, by their size (`Documentation/filesystems/proc.rst`, buddyinfo).
const BLOCKS: &str = "/proc/buddyinfo";
/// So many of the largest blocks may have been used as well: they go together again when all of one is free.
const LARGEST: u64 = 3;
/// Left to the kernel.
const SPARED_BYTES: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4096;

/// Makes memory zeros that was used and is free again. The kernel takes memory for a process from the smallest free blocks
/// first, and clears it; the largest are those that nothing has touched since the machine began.
pub(super) fn clear() -> io::Result<()> {
    let used = used_pages(&fs::read_to_string(BLOCKS)?)? * PAGE_BYTES;
    let bytes = used.min(super::memory::available_bytes()?.saturating_sub(SPARED_BYTES));
    let mut memory = vec![0_u8; usize::try_from(bytes).map_err(io::Error::other)?];
    // Reading wouldn't do: all of it would be one page.
    black_box(memory.as_mut_slice()).fill(0);
    black_box(&memory);
    Ok(())
}

/// How many free pages have probably been used.
fn used_pages(blocks: &str) -> io::Result<u64> {
    let mut pages: u64 = 0;
    for zone in blocks.lines() {
        // "Node 0, zone      DMA", then the number of blocks of 1, 2, 4 and so on pages.
        let counts: Result<Vec<u64>, _> = zone.split_ascii_whitespace().skip(4).map(str::parse).collect();
        let counts = counts.map_err(io::Error::other)?;
        let Some((largest, smaller)) = counts.split_last() else { continue };
        let sizes = (0..u32::BITS).map(|order| 1_u64 << order);
        let in_smaller: u64 = smaller.iter().zip(sizes).map(|(count, size)| count.saturating_mul(size)).sum();
        let in_largest = (*largest).min(LARGEST) << smaller.len().min(u32::BITS as usize);
        pages = pages.saturating_add(in_smaller).saturating_add(in_largest);
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_blocks_count_whole_and_large_ones_few() {
        let blocks = "Node 0, zone      DMA      1      0      2\nNode 0, zone    DMA32      3      1     40\n";
        assert_eq!(used_pages(blocks).unwrap(), 1 + 2 * 4 + 3 + 2 + 3 * 4);
        assert_eq!(used_pages("").unwrap(), 0);
        assert!(used_pages("Node 0, zone DMA many\n").is_err());
    }

    #[test]
    fn this_machine_tells_of_its_blocks() {
        assert!(used_pages(&fs::read_to_string(BLOCKS).unwrap()).unwrap() > 0);
    }
}
