//! The files by which the kernel tells what happened to a cgroup: keys with numbers, and a notice when one changes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

use super::Cgroup;
use crate::descriptor::Descriptor;

/// Notices of changes to one file, from before they are waited for: what changed since the last call counts.
#[derive(Debug)]
pub(super) struct Changes {
    inotify: Descriptor,
}

impl Changes {
    /// Watches a file.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC)?;
        add_watch(&inotify, path, WatchFlags::MODIFY)?;
        Ok(Self { inotify: Descriptor::new(inotify)? })
    }

    /// Waits for the next change; the file's removal is one.
    pub(super) async fn next(&self) -> io::Result<()> {
        // Which change it was doesn't matter: the file is read again.
        self.inotify.read(&mut [0; 1024]).await.map(drop)
    }
}

impl Cgroup {
    /// How many processes in it were killed for lack of memory: its own limit's, or the machine's. The kernel counts
    /// before it kills, so an exit that follows from it finds it counted.
    pub(crate) fn oom_kills(&self) -> io::Result<u64> {
        let events = self.read("memory.events")?;
        Ok(keyed(&events).get("oom_kill").copied().unwrap_or(0))
    }

    /// Waits until more than `known` were killed; answers how many.
    pub(crate) async fn more_oom_kills(&self, known: u64) -> io::Result<u64> {
        let changes = Changes::of(&self.path.join("memory.events"))?;
        loop {
            let count = self.oom_kills()?;
            if count > known {
                return Ok(count);
            }
            changes.next().await?;
        }
    }
}

/// A file of lines `KEY NUMBER`.
pub(super) fn keyed(text: &str) -> BTreeMap<&str, u64> {
    let entries = text.lines().filter_map(|line| line.split_once(' '));
    entries.filter_map(|(key, value)| Some((key, value.trim().parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_kill_is_noticed_when_it_is_counted() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::of(root.path(), "a");
        cgroup.create().unwrap();
        let count =
            |kills| fs::write(cgroup.path().join("memory.events"), format!("oom 9\noom_kill {kills}\n")).unwrap();
        count(2);
        assert_eq!(cgroup.more_oom_kills(1).await.unwrap(), 2);
        let mut waiting = Box::pin(cgroup.more_oom_kills(2));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        count(3);
        assert_eq!(timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap(), 3);
        let mut waiting = Box::pin(cgroup.more_oom_kills(3));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        fs::remove_dir_all(cgroup.path()).unwrap();
        assert!(timeout(Duration::from_secs(10), waiting).await.unwrap().is_err(), "waits for a cgroup that is gone");
    }

    #[test]
    fn lines_that_say_nothing_are_passed_over() {
        let read = keyed("low 0\nnonsense\nhigh x\nmax 18446744073709551615\n");
        assert_eq!(read, BTreeMap::from([("low", 0), ("max", u64::MAX)]));
    }
}
