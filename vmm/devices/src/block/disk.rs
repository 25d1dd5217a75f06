//! What stands behind a block device: files, block devices of the host among them, laid end to end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fdatasync, seek};

use crate::DeviceError;
use crate::ring::Buffers;
use crate::sys;

/// Bytes in a sector, the unit of capacities and positions (virtio 1.3 §5.2.4).
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Each file of the layer disk starts at a multiple of this.
pub(crate) const EXTENT_ALIGN: u64 = 4096;

/// A disk made of files, with zeros after the end of each up to the next one's start. Files come and go while a
/// guest runs, and it never shrinks.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Serial number, for messages.
    name: &'static str,
    /// Ordered by `start`.
    extents: Vec<Extent>,
    bytes: u64,
    writable: bool,
}

#[derive(Debug)]
struct Extent {
    file: File,
    /// Where the file begins on the disk.
    start: u64,
    /// Bytes of the disk that the file holds; what follows is padding.
    bytes: u64,
    writable: bool,
    /// Whether something was written since it was last made durable. A device that isn't written to costs a flush
    /// nothing, and can't make it fail.
    is_dirty: AtomicBool,
}

/// A part of a transfer that one extent answers.
enum Piece<'d> {
    /// At a position of its file.
    File { extent: &'d Extent, offset: u64, bytes: u64 },
    /// No file holds it: it reads as zeros.
    Padding { bytes: u64 },
}

impl Disk {
    /// A disk of files in order. Without any it has one zeroed sector.
    pub(crate) fn new(name: &'static str, writable: bool, files: Vec<(File, u64)>) -> Result<Self, DeviceError> {
        let mut disk = Self { name, extents: Vec::new(), bytes: SECTOR_BYTES, writable };
        disk.append(files)?;
        Ok(disk)
    }

    /// Adds files at the end, each at the next multiple of [`EXTENT_ALIGN`]: all of them, or none.
    pub(crate) fn append(&mut self, files: Vec<(File, u64)>) -> Result<(), DeviceError> {
        let mut end = self.extents.last().map_or(0, |_| self.bytes);
        let mut added = Vec::with_capacity(files.len());
        for (index, (file, bytes)) in files.into_iter().enumerate() {
            check_length(&file, bytes, self.name, index)?;
            let start = end.checked_next_multiple_of(EXTENT_ALIGN).ok_or_else(|| self.too_large())?;
            end = self.end_of(start, bytes)?;
            added.push(Extent::new(file, start, bytes, self.writable));
        }
        if !added.is_empty() {
            self.extents.append(&mut added);
            // A disk that is only read ends as its files would be padded.
            self.bytes = if self.writable { end } else { end.next_multiple_of(EXTENT_ALIGN) };
        }
        Ok(())
    }

    /// Adds a file at a place where none is, a multiple of [`EXTENT_ALIGN`]. What the guest writes to one that isn't
    /// `writable` fails.
    pub(crate) fn insert(&mut self, start: u64, file: File, bytes: u64, writable: bool) -> Result<(), DeviceError> {
        let index = self.extents.partition_point(|extent| extent.start < start);
        check_length(&file, bytes, self.name, index)?;
        let end = self.end_of(start, bytes)?;
        let before = index.checked_sub(1).and_then(|before| self.extents.get(before));
        let is_free = before.is_none_or(|before| before.start + before.bytes <= start)
            && self.extents.get(index).is_none_or(|after| end <= after.start);
        if !is_free || !start.is_multiple_of(EXTENT_ALIGN) {
            return Err(DeviceError::Place { disk: self.name, start });
        }
        self.extents.insert(index, Extent::new(file, start, bytes, writable && self.writable));
        self.bytes = self.bytes.max(end);
        Ok(())
    }

    /// Takes away the file that begins at a place, which is free then. The disk keeps its size.
    pub(crate) fn remove(&mut self, start: u64) -> Result<(), DeviceError> {
        match self.extents.binary_search_by_key(&start, |extent| extent.start) {
            Ok(index) => drop(self.extents.remove(index)),
            Err(_nothing) => return Err(DeviceError::Place { disk: self.name, start }),
        }
        Ok(())
    }

    fn end_of(&self, start: u64, bytes: u64) -> Result<u64, DeviceError> {
        let end = start.checked_add(bytes).filter(|&end| i64::try_from(end).is_ok());
        end.ok_or_else(|| self.too_large())
    }

    fn too_large(&self) -> DeviceError {
        DeviceError::DiskTooLarge { disk: self.name }
    }

    /// Capacity in sectors.
    pub(crate) fn sectors(&self) -> u64 {
        self.bytes / SECTOR_BYTES
    }

    /// Fills `buffers` from a position of the disk. All of it must be on the disk.
    pub(crate) fn read(&self, offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        let mut position = offset;
        self.check(offset, buffers.bytes() as u64)?;
        while buffers.bytes() > 0 {
            let moved = match self.piece(position, buffers.bytes() as u64) {
                Piece::File { extent, offset, bytes } => {
                    let part = take(&mut buffers, bytes)?;
                    read_all(&extent.file, part, offset)?;
                    bytes
                }
                Piece::Padding { bytes } => {
                    take(&mut buffers, bytes)?.zero();
                    bytes
                }
            };
            position += moved;
        }
        Ok(())
    }

    /// Writes `buffers` at a position of the disk. All of it must be on the disk, and in files: nothing is kept of what
    /// would lie between two.
    pub(crate) fn write(&self, offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        self.in_files(offset, buffers.bytes() as u64, |file, offset, bytes| {
            write_all(file, take(&mut buffers, bytes)?, offset)
        })
    }

    /// Makes completed writes durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.extents.iter().try_for_each(Extent::flush)
    }

    /// Gives the space of a range back to the host; it reads as zeros afterwards where the host's filesystem or device
    /// can punch holes, and is unchanged where it can't.
    pub(crate) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.in_files(offset, bytes, |file, offset, bytes| match punch(file, offset, bytes) {
            Err(error) if is_unpunchable(&error) => Ok(()),
            result => result,
        })
    }

    /// Makes a range read as zeros.
    pub(crate) fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.in_files(offset, bytes, |file, offset, bytes| match punch(file, offset, bytes) {
            Err(error) if is_unpunchable(&error) => overwrite(file, offset, bytes),
            result => result,
        })
    }

    /// Changes each part of a range: the file it lies in, its position there and its length.
    fn in_files(
        &self,
        offset: u64,
        bytes: u64,
        mut change: impl FnMut(&File, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        self.check(offset, bytes)?;
        let mut done = 0;
        while done < bytes {
            let Piece::File { extent, offset, bytes: part } = self.piece(offset + done, bytes - done) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            if !extent.writable {
                return Err(io::ErrorKind::ReadOnlyFilesystem.into());
            }
            extent.is_dirty.store(true, Ordering::Relaxed);
            change(&extent.file, offset, part)?;
            done += part;
        }
        Ok(())
    }

    fn check(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The first piece of a range that lies on the disk and isn't empty.
    fn piece(&self, position: u64, wanted: u64) -> Piece<'_> {
        let next = self.extents.partition_point(|extent| extent.start <= position);
        let end = self.extents.get(next).map_or(self.bytes, |following| following.start);
        let current = next.checked_sub(1).and_then(|index| self.extents.get(index));
        match current.map(|extent| (extent, position - extent.start)) {
            Some((extent, offset)) if offset < extent.bytes => {
                Piece::File { extent, offset, bytes: wanted.min(extent.bytes - offset) }
            }
            _ => Piece::Padding { bytes: wanted.min(end - position) },
        }
    }
}

impl Extent {
    fn new(file: File, start: u64, bytes: u64, writable: bool) -> Self {
        Self { file, start, bytes, writable, is_dirty: AtomicBool::new(false) }
    }

    fn flush(&self) -> io::Result<()> {
        if self.is_dirty.swap(false, Ordering::Relaxed) {
            // What isn't durable now is to fail the next flush, too.
            fdatasync(&self.file).inspect_err(|_| self.is_dirty.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// Checks that a file holds what the caller says.
fn check_length(file: &File, stated: u64, disk: &'static str, index: usize) -> Result<(), DeviceError> {
    let actual = length(file).map_err(|source| DeviceError::Examine { disk, index, source })?;
    if stated == 0 || !stated.is_multiple_of(SECTOR_BYTES) || actual < stated {
        return Err(DeviceError::Backing { disk, index, actual, stated });
    }
    Ok(())
}

/// How many bytes there are: a block device's file itself has no length.
fn length(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() { Ok(seek(file, SeekFrom::End(0))?) } else { Ok(metadata.len()) }
}

fn read_all(file: &File, mut buffers: Buffers<'_>, offset: u64) -> io::Result<()> {
    let mut position = offset;
    while buffers.bytes() > 0 {
        let read = sys::read_at(file.as_fd(), buffers.slices(), position)?;
        if read == 0 {
            // Someone truncated the file under us.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take(&mut buffers, read as u64)?;
        position += read as u64;
    }
    Ok(())
}

fn write_all(file: &File, mut buffers: Buffers<'_>, offset: u64) -> io::Result<()> {
    let mut position = offset;
    while buffers.bytes() > 0 {
        let written = sys::write_at(file.as_fd(), buffers.slices(), position)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        take(&mut buffers, written as u64)?;
        position += written as u64;
    }
    Ok(())
}

fn punch(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)?)
}

/// Whether zeros have to be written to have any: the host can't punch there at all, not parts of its device's blocks, or
/// not while something on the host, a mount say, holds the device.
fn is_unpunchable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput | io::ErrorKind::ResourceBusy)
}

fn overwrite(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 65536] = [0; 65536];
    let mut done = 0;
    while done < bytes {
        let length = usize::try_from(bytes - done).unwrap_or(usize::MAX).min(ZEROS.len());
        let written = rustix::io::pwrite(file, &ZEROS[..length], offset + done)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += written as u64;
    }
    Ok(())
}

fn take<'m>(buffers: &mut Buffers<'m>, bytes: u64) -> io::Result<Buffers<'m>> {
    usize::try_from(bytes).ok().and_then(|bytes| buffers.take(bytes)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use loop_device::LoopDevice;

    use super::*;

    #[test]
    fn only_what_was_written_is_flushed() {
        // A pipe can't be brought to any medium, which shows whether it is tried.
        let (pipe, _end) = std::io::pipe().unwrap();
        let extent = Extent::new(OwnedFd::from(pipe).into(), 0, 512, true);
        extent.flush().unwrap();
        extent.is_dirty.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(extent.flush().unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_block_device_can_be_written_flushed_and_emptied() {
        let behind = tempfile::NamedTempFile::new().unwrap();
        behind.as_file().write_all_at(&[5; 1 << 20], 0).unwrap();
        let Some(device) = LoopDevice::of(behind.path(), &["--sector-size", "4096"]) else {
            return eprintln!("no loop device can be had");
        };
        let file = File::options().read(true).write(true).open(device.path()).unwrap();
        let mut disk = Disk::new("upper", true, Vec::new()).unwrap();
        disk.insert(4096, file.try_clone().unwrap(), 1 << 20, true).unwrap();
        file.write_all_at(&[6; 4096], 4096).unwrap();
        // Whole blocks, and parts of some, which can't be punched.
        disk.discard(4096 + 8192, 4096).unwrap();
        disk.discard(4096 + 512, 1024).unwrap();
        disk.write_zeroes(4096 + 16384 + 512, 8192).unwrap();
        disk.flush().unwrap();
        let mut expected = vec![5; 1 << 20];
        expected[4096..8192].fill(6);
        expected[8192..12288].fill(0);
        expected[16384 + 512..16384 + 512 + 8192].fill(0);
        let content = std::fs::read(behind.path()).unwrap();
        let differs = content.iter().zip(&expected).position(|(found, expected)| found != expected);
        assert_eq!((content.len(), differs), (expected.len(), None), "what is behind the device");
        assert!(disk.insert(4 << 20, file, 2 << 20, true).is_err(), "it isn't as long");
    }
}
