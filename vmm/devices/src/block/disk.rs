//! What stands behind a block device: files laid end to end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use crate::DeviceError;
use crate::ring::Buffers;
use crate::sys;

/// Bytes in a sector, the unit of capacities and positions (virtio 1.3 §5.2.4).
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Each file of the layer disk starts at a multiple of this.
pub(crate) const EXTENT_ALIGN: u64 = 4096;

/// A disk made of files, with zeros after the end of each up to the next one's start.
#[derive(Debug)]
pub(crate) struct Disk {
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
}

/// A part of a transfer that one extent answers.
enum Piece<'d> {
    /// At a position of a file.
    File { file: &'d File, offset: u64, bytes: u64 },
    /// No file holds it: it reads as zeros.
    Padding { bytes: u64 },
}

impl Disk {
    /// A disk of one zeroed sector, for a device that has nothing behind it yet.
    pub(crate) fn empty() -> Self {
        Self { extents: Vec::new(), bytes: SECTOR_BYTES, writable: false }
    }

    /// A read-only disk of files in order, each padded to [`EXTENT_ALIGN`]; empty if there are none.
    pub(crate) fn layers(files: Vec<(File, u64)>, disk: &'static str) -> Result<Self, DeviceError> {
        if files.is_empty() {
            return Ok(Self::empty());
        }
        let mut start = 0u64;
        let mut extents = Vec::with_capacity(files.len());
        for (index, (file, bytes)) in files.into_iter().enumerate() {
            check_length(&file, bytes, disk, index)?;
            extents.push(Extent { file, start, bytes });
            start = bytes
                .checked_next_multiple_of(EXTENT_ALIGN)
                .and_then(|padded| start.checked_add(padded))
                .filter(|&end| i64::try_from(end).is_ok())
                .ok_or(DeviceError::DiskTooLarge { disk })?;
        }
        Ok(Self { extents, bytes: start, writable: false })
    }

    /// A writable disk of one image.
    pub(crate) fn image(file: File, bytes: u64, disk: &'static str) -> Result<Self, DeviceError> {
        check_length(&file, bytes, disk, 0)?;
        Ok(Self { extents: vec![Extent { file, start: 0, bytes }], bytes, writable: true })
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
                Piece::File { file, offset, bytes } => {
                    let part = take(&mut buffers, bytes)?;
                    read_all(file, part, offset)?;
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

    /// Writes `buffers` at a position of the disk. All of it must be on the disk.
    pub(crate) fn write(&self, offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        self.check(offset, buffers.bytes() as u64)?;
        let file = self.image_file()?;
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

    /// Makes completed writes durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        match self.extents.first() {
            Some(extent) if self.writable => Ok(fdatasync(&extent.file)?),
            _ => Ok(()),
        }
    }

    /// Gives the space of a range back to the host; it reads as zeros afterwards where the host's filesystem can
    /// punch holes, and is unchanged where it can't.
    pub(crate) fn discard(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match self.punch(offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Makes a range read as zeros.
    pub(crate) fn write_zeroes(&self, offset: u64, bytes: u64) -> io::Result<()> {
        match self.punch(offset, bytes) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.overwrite(offset, bytes),
            result => result,
        }
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.check(offset, bytes)?;
        let file = self.image_file()?;
        if bytes == 0 {
            return Ok(());
        }
        Ok(fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)?)
    }

    fn overwrite(&self, offset: u64, bytes: u64) -> io::Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let file = self.image_file()?;
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

    /// The image of a writable disk.
    fn image_file(&self) -> io::Result<&File> {
        match self.extents.first() {
            Some(extent) if self.writable => Ok(&extent.file),
            _ => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
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
                Piece::File { file: &extent.file, offset, bytes: wanted.min(extent.bytes - offset) }
            }
            _ => Piece::Padding { bytes: wanted.min(end - position) },
        }
    }
}

/// Checks that a file holds what the caller says.
fn check_length(file: &File, stated: u64, disk: &'static str, index: usize) -> Result<(), DeviceError> {
    let actual = file.metadata().map_err(|source| DeviceError::Examine { disk, index, source })?.len();
    if stated == 0 || !stated.is_multiple_of(SECTOR_BYTES) || actual < stated {
        return Err(DeviceError::Backing { disk, index, actual, stated });
    }
    Ok(())
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

fn take<'m>(buffers: &mut Buffers<'m>, bytes: u64) -> io::Result<Buffers<'m>> {
    usize::try_from(bytes).ok().and_then(|bytes| buffers.take(bytes)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
