//! The upper disk, of which each container that writes has a part, which holds a file system with a writable layer.
//! Further parts are block devices of the host.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::disk::Disk;
use super::rootfs::{RootfsError, io};
use crate::sys::{MAX_PARTITIONS, add_partition, delete_partition};

const DIRECTORY: &str = "/run/supermachine/uppers";
/// How long the kernel may take to clean up after the last user of a part.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// A part of the disk, which the kernel knows as a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upper {
    disk: Disk,
    number: u32,
}

impl Upper {
    /// Its device node.
    pub(super) fn device(&self) -> PathBuf {
        self.disk.partition(self.number)
    }

    /// Where its figures are.
    pub(super) fn figures(&self) -> PathBuf {
        Path::new("/sys/fs/ext4").join(self.device().file_name().unwrap_or_default())
    }

    /// Where it is mounted for the container that has it.
    pub(super) fn mount_point(&self) -> PathBuf {
        Path::new(DIRECTORY).join(self.number.to_string())
    }
}

#[derive(Debug)]
struct Part {
    upper: Upper,
    bytes: u64,
    /// Who has it.
    container: Option<String>,
}

/// The parts that are known, by where they begin on the disk.
#[derive(Debug, Default)]
pub(super) struct Uppers(Mutex<BTreeMap<u64, Part>>);

impl Uppers {
    /// Finds a part, once the disk has grown so far.
    pub(super) async fn find(&self, offset: u64, bytes: u64) -> Result<Upper, RootfsError> {
        let disk = Disk::find("upper")?;
        disk.await_capacity(offset.saturating_add(bytes.max(1))).await?;
        let mut parts = self.parts();
        match parts.get(&offset) {
            Some(part) if part.bytes == bytes => return Ok(part.upper.clone()),
            Some(_) => return Err(RootfsError::UpperInUse),
            None => {}
        }
        let free = (1..=MAX_PARTITIONS).find(|number| parts.values().all(|part| part.upper.number != *number));
        let upper = Upper { disk, number: free.ok_or(RootfsError::TooManyUppers)? };
        let device = File::open(upper.disk.path()).map_err(io("open", upper.disk.path()))?;
        add_partition(device.as_fd(), upper.number, offset, bytes).map_err(io("add partition", upper.device()))?;
        parts.insert(offset, Part { upper: upper.clone(), bytes, container: None });
        Ok(upper)
    }

    /// Gives a part to a container.
    pub(super) fn give(&self, offset: u64, container: &str) -> Result<(), RootfsError> {
        match self.parts().get_mut(&offset) {
            Some(part) if part.container.is_none() => {
                part.container = Some(container.to_owned());
                Ok(())
            }
            _ => Err(RootfsError::UpperInUse),
        }
    }

    /// Whether a container has the part.
    pub(super) fn is_given(&self, offset: u64) -> bool {
        self.parts().get(&offset).is_some_and(|part| part.container.is_some())
    }

    /// The part that a container has.
    pub(super) fn of(&self, container: &str) -> Option<Upper> {
        let parts = self.parts();
        let given = parts.values().find(|part| part.container.as_deref() == Some(container));
        given.map(|part| part.upper.clone())
    }

    /// Takes a container's part back.
    pub(super) fn take_back(&self, container: &str) {
        for part in self.parts().values_mut().filter(|part| part.container.as_deref() == Some(container)) {
            part.container = None;
        }
    }

    /// Forgets a part that no container has. Succeeds if it isn't known.
    pub(super) async fn release(&self, offset: u64) -> Result<(), RootfsError> {
        let upper = match self.parts().get(&offset) {
            None => return Ok(()),
            Some(part) if part.container.is_some() => return Err(RootfsError::UpperInUse),
            Some(part) => part.upper.clone(),
        };
        let device = File::open(upper.disk.path()).map_err(io("open", upper.disk.path()))?;
        let deadline = Instant::now() + RELEASE_WITHIN;
        while let Err(error) = delete_partition(device.as_fd(), upper.number) {
            if Errno::from_io_error(&error) != Some(Errno::BUSY) {
                return Err(io("delete partition", upper.device())(error));
            }
            if Instant::now() >= deadline {
                return Err(RootfsError::UpperHeld { device: upper.device() });
            }
            // Nothing tells when the kernel has cleaned up.
            sleep(RELEASE_POLL).await;
        }
        self.parts().remove(&offset);
        Ok(())
    }

    fn parts(&self) -> MutexGuard<'_, BTreeMap<u64, Part>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
