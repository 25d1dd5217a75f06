//! The machine's block devices, found by the serial number the host gave them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Bytes in a sector, the unit of `/sys/block/*/size` whatever the device's own is.
const SECTOR_BYTES: u64 = 512;
/// How long a disk may take to show the capacity the host announced.
const DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// A disk that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error("the machine has no disk with serial {serial:?}")]
    Missing { serial: &'static str },
    #[error("disk {serial:?} shows {bytes} bytes; {expected} were announced and didn't come within {} s", DEADLINE.as_secs())]
    TooSmall { serial: &'static str, bytes: u64, expected: u64 },
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    name: String,
    serial: &'static str,
}

impl Disk {
    /// Finds the disk with this serial number.
    pub(crate) fn find(serial: &'static str) -> Result<Self, DiskError> {
        let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        for entry in blocks {
            let found = fs::read_to_string(entry.path().join("serial"));
            if found.is_ok_and(|found| found.trim_end_matches(['\0', '\n']) == serial) {
                return Ok(Self { name: entry.file_name().to_string_lossy().into_owned(), serial });
            }
        }
        Err(DiskError::Missing { serial })
    }

    /// Waits until the disk has at least `expected` bytes. A restored machine's disks start out empty; the host gives
    /// them their contents and raises an interrupt, which may come after the first request.
    pub(crate) async fn await_capacity(&self, expected: u64) -> Result<(), DiskError> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let bytes = self.capacity();
            if bytes >= expected {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(DiskError::TooSmall { serial: self.serial, bytes, expected });
            }
            sleep(POLL).await;
        }
    }

    /// Its device node.
    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The device node of one of its partitions.
    pub(crate) fn partition(&self, number: u32) -> PathBuf {
        Path::new("/dev").join(format!("{}{number}", self.name))
    }

    fn capacity(&self) -> u64 {
        let sectors = fs::read_to_string(Path::new("/sys/block").join(&self.name).join("size"));
        sectors
            .ok()
            .and_then(|sectors| sectors.trim_end().parse::<u64>().ok())
            .unwrap_or(0)
            .saturating_mul(SECTOR_BYTES)
    }
}
