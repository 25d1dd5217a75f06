//! What a warm bake's guest has written to its disk: the blocks that hold something, packed into the `upper` file.
//!
//! ```text
//! repeated, in rising order and apart from each other:
//! 0   first    u64 LE   number of a block of 4096 bytes
//! 8   blocks   u64 LE   how many follow
//! 16  data     4096 bytes each
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// What a disk is looked at in, in bytes.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Largest disk, in bytes.
pub(crate) const MAX_DISK_BYTES: u64 = 1 << 50;
/// Most that is kept of a disk, in bytes: each start writes it.
const MAX_PACKED_BYTES: u64 = 256 << 20;
/// Blocks read and written at once.
const CHUNK_BLOCKS: u64 = 256;

/// A disk could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The file isn't one that was packed.
    #[error("the file `upper` is no packed disk: {problem}")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
    },
    /// It can't be read, or the disk not written.
    #[error("the disk can't be copied")]
    Io(#[from] io::Error),
}

/// Writes the blocks of a disk that aren't zero. What the file system knows to be a hole isn't read.
pub(crate) fn pack(disk: &File, mut into: impl Write) -> io::Result<()> {
    let bytes = disk.metadata()?.len();
    let mut packed = 0;
    let mut next = 0;
    while let Some((start, end)) = data(disk, next, bytes)? {
        let (mut block, last) = (start / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES));
        while block < last {
            let mut chunk = vec![0; to_bytes(CHUNK_BLOCKS.min(last - block))];
            read_padded(disk, &mut chunk, block * BLOCK_BYTES)?;
            packed += pack_chunk(&chunk, block, &mut into)?;
            if packed > MAX_PACKED_BYTES {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 MiB were written to the disk"));
            }
            block += CHUNK_BLOCKS.min(last - block);
        }
        next = last * BLOCK_BYTES;
    }
    into.flush()
}

/// Writes the runs of blocks in a chunk that hold something; answers how many bytes those are.
fn pack_chunk(chunk: &[u8], first: u64, into: &mut impl Write) -> io::Result<u64> {
    let blocks: Vec<&[u8]> = chunk.chunks(to_bytes(1)).collect();
    let (mut number, mut packed) = (first, 0);
    for run in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let count = run.len() as u64;
        if !is_zero(run[0]) {
            into.write_all(&number.to_le_bytes())?;
            into.write_all(&count.to_le_bytes())?;
            run.iter().try_for_each(|block| into.write_all(block))?;
            packed += count * BLOCK_BYTES;
        }
        number += count;
    }
    Ok(packed)
}

/// Makes an empty file the disk that was packed. The packed file is untrusted.
pub fn unpack(packed: &File, disk_bytes: u64, disk: &File) -> Result<(), UnpackError> {
    let malformed = |problem| UnpackError::Malformed { problem };
    disk.set_len(disk_bytes)?;
    let blocks = disk_bytes / BLOCK_BYTES;
    // By offsets: others read the same open file.
    let (mut offset, bytes) = (0, packed.metadata()?.len());
    let mut after = 0;
    while offset < bytes {
        let mut header = [0; 16];
        packed.read_exact_at(&mut header, offset)?;
        offset += 16;
        let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap_or_default());
        let (first, count) = (number(0), number(8));
        let end = first.checked_add(count).filter(|&end| first >= after && count > 0 && end <= blocks);
        after = end.ok_or(malformed("a run is empty, out of order or outside of the disk"))?;
        if bytes - offset < count * BLOCK_BYTES {
            return Err(malformed("a run is longer than the file"));
        }
        for block in (first..after).step_by(CHUNK_BLOCKS as usize) {
            let mut chunk = vec![0; to_bytes(CHUNK_BLOCKS.min(after - block))];
            packed.read_exact_at(&mut chunk, offset)?;
            disk.write_all_at(&chunk, block * BLOCK_BYTES)?;
            offset += chunk.len() as u64;
        }
    }
    Ok(())
}

/// The next part of a file that isn't a hole.
fn data(file: &File, from: u64, bytes: u64) -> io::Result<Option<(u64, u64)>> {
    if from >= bytes {
        return Ok(None);
    }
    let start = match seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some((start, seek(file, SeekFrom::Hole(start))?)))
}

/// Reads what there is, which may end within the last block.
fn read_padded(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset)? {
            0 => return Ok(()),
            count => {
                buffer = &mut buffer[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Bytes of a number of blocks that is known to be small.
fn to_bytes(blocks: u64) -> usize {
    (blocks * BLOCK_BYTES) as usize
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    const BLOCKS: u64 = 3000;

    fn packed(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn a_disk_comes_back_and_stays_sparse() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(BLOCKS * BLOCK_BYTES).unwrap();
        for block in [0, 1, 7, 255, 256, 257, 1000, BLOCKS - 1] {
            disk.write_all_at(&[(block % 255) as u8 + 1], block * BLOCK_BYTES + 100).unwrap();
        }
        disk.write_all_at(&[0; 8192], 2000 * BLOCK_BYTES).unwrap();
        let mut bytes = Vec::new();
        pack(&disk, &mut bytes).unwrap();
        let kept = bytes.len() as u64 / BLOCK_BYTES;
        assert_eq!(kept, 8);
        let again = tempfile::tempfile().unwrap();
        let file = packed(&bytes);
        for _ in 0..2 {
            unpack(&file, BLOCKS * BLOCK_BYTES, &again).unwrap();
        }
        assert!(again.metadata().unwrap().blocks() * 512 < 100 * BLOCK_BYTES);
        let read = |file: &File| {
            let mut bytes = vec![0; (BLOCKS * BLOCK_BYTES) as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(read(&disk) == read(&again));
    }

    #[test]
    fn what_was_not_packed_is_refused() {
        let run = |first: u64, count: u64, data: u64| {
            [&first.to_le_bytes()[..], &count.to_le_bytes(), &vec![1; to_bytes(data)]].concat()
        };
        let refused = |bytes: &[u8]| {
            unpack(&packed(bytes), BLOCKS * BLOCK_BYTES, &tempfile::tempfile().unwrap()).unwrap_err().to_string()
        };
        for bad in [run(0, 0, 0), run(BLOCKS, 1, 1), run(u64::MAX, 2, 2), [run(4, 2, 2), run(5, 1, 1)].concat()] {
            assert!(refused(&bad).contains("out of order"), "{}", refused(&bad));
        }
        assert!(refused(&run(0, 2, 1)).contains("longer than the file"));
        assert!(refused(&[1; 15]).contains("can't be copied"));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_unpacked_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let disk = tempfile::tempfile().unwrap();
            drop(unpack(&packed(&bytes), BLOCKS * BLOCK_BYTES, &disk));
            prop_assert!(disk.metadata().unwrap().len() <= BLOCKS * BLOCK_BYTES);
        }
    }
}
