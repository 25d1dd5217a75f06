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
        let frozen = self.set_frozen(true).await;
        if frozen.is_err() {
            self.write("cgroup.freeze", "0")?;
        }
        frozen
    }

    /// Lets them go on.
    pub(crate) async fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false).await
    }

    /// Whether its processes are stopped, or are to be. A process that is made in it now would be.
    pub(crate) fn is_freezing(&self) -> io::Result<bool> {
        Ok(self.read("cgroup.freeze")?.trim() == "1")
    }

    async fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        let changes = Changes::of(&self.path.join("cgroup.events"))?;
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })?;
        let reached = async {
            while keyed(&self.read("cgroup.events")?).get("frozen") != Some(&u64::from(frozen)) {
                changes.next().await?;
            }
            Ok(())
        };
        timeout(FREEZE_WITHIN, reached).await.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }
}
