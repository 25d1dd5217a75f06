//! Telling whether a file is still the one that was looked at.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A file changed within this time of being looked at could change again without its times moving on (they advance
/// with the kernel's tick, 1 to 10 ms).
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// Device, inode, size and times of a file. A change of contents through the file API always changes the change
/// time, which can't be set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Tells the file from every other one that is there at the time.
    pub(crate) fn name(&self) -> String {
        format!("{:x}-{:x}", self.device, self.inode)
    }

    /// Whether the last change is long enough ago for the times to tell a later one apart.
    pub fn is_settled(&self) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else { return false };
        let changed = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(self.changed.1.unsigned_abs());
        SystemTime::now().duration_since(changed).is_ok_and(|age| age > SETTLED_AFTER)
    }
}

impl From<&Metadata> for FileIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
