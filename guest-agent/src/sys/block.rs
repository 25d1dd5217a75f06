//! Partitions added to a disk by hand, made read-only, and taken away: the machine's disks carry no table.

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Partition numbers run from 1 to this (`DISK_MAX_PARTS` - 1 in the kernel).
pub(crate) const MAX_PARTITIONS: u32 = 255;

const BLKPG: libc::Ioctl = 0x1269;
const BLKROSET: libc::Ioctl = 0x125d;
const BLKPG_ADD_PARTITION: c_int = 1;
const BLKPG_DEL_PARTITION: c_int = 2;

/// `struct blkpg_partition` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: c_int,
    device_name: [c_char; 64],
    volume_name: [c_char; 64],
}

/// `struct blkpg_ioctl_arg` of `linux/blkpg.h`.
#[repr(C)]
struct BlkpgArgument {
    operation: c_int,
    flags: c_int,
    data_length: c_int,
    data: *mut c_void,
}

/// Adds partition `number` of a disk: `length` bytes from byte `start`, both multiples of the sector size.
pub(crate) fn add_partition(disk: BorrowedFd<'_>, number: u32, start: u64, length: u64) -> io::Result<()> {
    change_partition(disk, BLKPG_ADD_PARTITION, number, start, length)
}

/// Takes partition `number` of a disk away. `EBUSY` while something holds it.
pub(crate) fn delete_partition(disk: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    change_partition(disk, BLKPG_DEL_PARTITION, number, 0, 0)
}

/// Has a disk or partition refuse writes.
pub(crate) fn set_read_only(device: BorrowedFd<'_>) -> io::Result<()> {
    let read_only: c_int = 1;
    // SAFETY: BLKROSET reads an `int`, which lives until the call returns.
    match unsafe { libc::ioctl(device.as_raw_fd(), BLKROSET, &raw const read_only) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn change_partition(disk: BorrowedFd<'_>, operation: c_int, number: u32, start: u64, length: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut partition = BlkpgPartition {
        start: i64::try_from(start).map_err(too_large)?,
        length: i64::try_from(length).map_err(too_large)?,
        number: c_int::try_from(number).map_err(too_large)?,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let mut argument = BlkpgArgument {
        operation,
        flags: 0,
        data_length: size_of::<BlkpgPartition>() as c_int,
        data: (&raw mut partition).cast(),
    };
    // SAFETY: BLKPG reads a `blkpg_ioctl_arg` and, through it, a `blkpg_partition`; both have the kernel's layout and
    // live until the call returns.
    match unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw mut argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use loop_device::LoopDevice;

    use super::*;

    #[test]
    fn a_partition_is_there_until_it_is_deleted_and_may_refuse_writes() {
        let behind = tempfile::NamedTempFile::new().unwrap();
        behind.as_file().set_len(1 << 20).unwrap();
        let Some(device) = LoopDevice::of(behind.path(), &["--partscan"]) else {
            return eprintln!("no loop device can be had");
        };
        let disk = File::open(device.path()).unwrap();
        add_partition(disk.as_fd(), 1, 4096, 8192).unwrap();
        assert!(add_partition(disk.as_fd(), 2, 8192, 4096).is_err(), "they don't overlap");
        let path = format!("{}p1", device.path().display());
        let open = || File::options().read(true).write(true).open(&path);
        let partition = match open() {
            Ok(partition) => partition,
            Err(error) => return eprintln!("{path} has no node here: {error}"),
        };
        partition.write_all_at(&[7; 512], 0).unwrap();
        assert_eq!(delete_partition(disk.as_fd(), 1).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(partition);
        assert_eq!(fs::read(behind.path()).unwrap()[4096..4608], [7; 512], "closed is written");
        let partition = File::open(&path).unwrap();
        set_read_only(partition.as_fd()).unwrap();
        drop(partition);
        let refused = open().and_then(|partition| partition.write_all_at(&[8; 512], 0)).unwrap_err();
        assert!(matches!(refused.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::EROFS)), "{refused}");
        delete_partition(disk.as_fd(), 1).unwrap();
        add_partition(disk.as_fd(), 1, 4096, 8192).unwrap();
        open().unwrap().write_all_at(&[8; 512], 0).unwrap();
    }
}
