//! Stopping a cgroup where it is, and letting it go on.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::Cgroup;
use super::events::{Changes, keyed};

/// How long all processes may take to stop: one that waits for a disk can't.
const FREEZE_WITHIN: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Stops every process in it and below it; returns once all have stopped. If that takes too long they go on.
    pub(crate) async fn freeze(&self) -> io::Result<()> {
        let frozen =
            timeout(FREEZE_WITHIN, self.stop()).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        if frozen.is_err() {
            self.thaw()?;
        }
        frozen
    }

    /// Lets them go on. They do without being waited for: the kernel tells of it some milliseconds late
    /// (`CGROUP_FILE_NOTIFY_MIN_INTV`).
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Whether its processes are stopped, or are to be. A process that is made in it now would be.
    pub(crate) fn is_freezing(&self) -> io::Result<bool> {
        Ok(self.read("cgroup.freeze")?.trim() == "1")
    }

    async fn stop(&self) -> io::Result<()> {
        let changes = Changes::of(&self.path.join("cgroup.events"))?;
        self.write("cgroup.freeze", "1")?;
        while keyed(&self.read("cgroup.events")?).get("frozen") != Some(&1) {
            changes.next().await?;
        }
        Ok(())
    }
}
