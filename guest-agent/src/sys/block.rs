//! Partitions added to a disk by hand, and taken away: the machine's disks carry no table.

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Partition numbers run from 1 to this (`DISK_MAX_PARTS` - 1 in the kernel).
pub(crate) const MAX_PARTITIONS: u32 = 255;

const BLKPG: libc::Ioctl = 0x1269;
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
