//! What is in a file: the runs of data between its holes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{ArchiveError, BLOCK};

/// What is copied at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// A run of data: offset and length.
pub(super) type Run = (u64, u64);

/// The data of a file of this size.
pub(super) fn runs(file: &File, size: u64) -> io::Result<Vec<Run>> {
    let mut runs = Vec::new();
    let mut position = 0;
    while position < size {
        let start = match seek(file, SeekFrom::Data(position)) {
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            start => start?.min(size),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            // It shrinks while it is looked at.
            Err(Errno::NXIO) => size,
            end => end?.min(size),
        };
        // A hole that was filled in this moment may leave no progress.
        if end > start {
            runs.push((start, end - start));
        }
        position = end.max(position + 1);
    }
    Ok(runs)
}

/// Whether a file of this size has no holes.
pub(super) fn is_solid(runs: &[Run], size: u64) -> bool {
    size == 0 || runs == [(0, size)]
}

/// The map that precedes the data of a file with holes, padded to whole blocks. It ends with an empty run at the
/// file's end if there is a hole.
pub(super) fn encode_map(runs: &[Run], size: u64) -> Vec<u8> {
    let tail = runs.last().is_none_or(|(offset, length)| offset + length < size).then_some((size, 0));
    let mut text = format!("{}\n", runs.len() + usize::from(tail.is_some()));
    for (offset, length) in runs.iter().chain(&tail) {
        text.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = text.into_bytes();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// Reads such a map from the start of a file's data.
pub(super) fn decode_map(input: &mut impl Read) -> Result<Vec<Run>, ArchiveError> {
    let mut numbers = Numbers { input, block: [0; BLOCK], position: BLOCK };
    let count = numbers.next()?;
    let mut runs = Vec::new();
    for _ in 0..count {
        runs.push((numbers.next()?, numbers.next()?));
    }
    Ok(runs)
}

/// Decimal numbers, a line each, read in whole blocks.
struct Numbers<'a, R> {
    input: &'a mut R,
    block: [u8; BLOCK],
    position: usize,
}

impl<R: Read> Numbers<'_, R> {
    fn next(&mut self) -> Result<u64, ArchiveError> {
        let mut number: u64 = 0;
        loop {
            if self.position == BLOCK {
                self.input.read_exact(&mut self.block).map_err(ArchiveError::Read)?;
                self.position = 0;
            }
            let byte = self.block.get(self.position).copied().unwrap_or_default();
            self.position += 1;
            let digit = match byte {
                b'\n' => return Ok(number),
                b'0'..=b'9' => u64::from(byte - b'0'),
                _ => return Err(ArchiveError::Damaged("a map of holes that isn't one")),
            };
            let grown = number.checked_mul(10).and_then(|number| number.checked_add(digit));
            number = grown.ok_or(ArchiveError::Damaged("a map of holes with an impossible number"))?;
        }
    }
}

/// Why data wasn't copied.
pub(super) enum Stopped {
    Reading(io::Error),
    Writing(io::Error),
}

/// Writes exactly a run's bytes: zeros for those that the file has lost meanwhile.
pub(super) fn write_run(file: &File, (offset, length): Run, out: &mut impl Write) -> Result<(), Stopped> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < length {
        let most = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..most) else { break };
        let read = match file.read_at(part, offset + done) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(Stopped::Reading)?,
        };
        if read == 0 {
            part.fill(0);
        }
        let filled = if read == 0 { most } else { read };
        out.write_all(part.get(..filled).unwrap_or_default()).map_err(Stopped::Writing)?;
        done += filled as u64;
    }
    Ok(())
}

/// Copies a run's bytes from an archive to its place in a file.
pub(super) fn read_run(input: &mut impl Read, (offset, length): Run, file: &File) -> Result<(), Stopped> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < length {
        let most = buffer.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
        let Some(part) = buffer.get_mut(..most) else { break };
        input.read_exact(part).map_err(Stopped::Reading)?;
        file.write_all_at(part, offset + done).map_err(Stopped::Writing)?;
        done += most as u64;
    }
    Ok(())
}
