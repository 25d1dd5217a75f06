//! Whose content the guest may keep from one opening to the next.
//!
//! A FUSE client drops what it has of a file whenever one is opened, unless it is told to keep it. It compares the times of
//! changes itself, before it uses what it has, but a clock ticks: a file may change twice at one moment, and be read in
//! between. So a file is kept only if it didn't change since an opening at which it was dropped, and the time of its last
//! change was long past by then: whatever changes it later has another time. That is the inode's own time (ctime), which
//! nobody sets. A program of the host's that writes through a mapping changes it only every now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use virtiofsd::fuse::Attr;

/// Files that are remembered. One is forgotten when another takes its place.
const FILES: usize = 4096;
/// How long ago a change must be that no later one has the same time: the coarsest file systems count in two seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// The time of a file's last change, since 1970.
type Moment = Duration;

#[derive(Clone, Copy, Debug, Default)]
struct File {
    node: u64,
    /// When it had changed, the last time that the guest was told.
    changed: Moment,
    /// When it had changed when it was last dropped, if that was long past.
    dropped: Option<Moment>,
}

/// What is remembered.
#[derive(Debug)]
pub(super) struct Versions(Mutex<Box<[File]>>);

impl Versions {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![File::default(); FILES].into()))
    }

    /// The guest is told of a node.
    pub(super) fn tell(&self, node: u64, attributes: &Attr) {
        // Nanoseconds that are none make another time of it.
        let changed =
            Duration::from_secs(attributes.ctime).saturating_add(Duration::from_nanos(attributes.ctimensec.into()));
        self.with(node, |file| {
            if file.node != node {
                *file = File { node, ..File::default() };
            }
            file.changed = changed;
        });
    }

    /// Whether the guest, which opens a file, may keep what it has of it.
    pub(super) fn may_keep(&self, node: u64) -> bool {
        self.may_keep_at(node, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn may_keep_at(&self, node: u64, now: Moment) -> bool {
        self.with(node, |file| {
            if file.node != node {
                return false;
            }
            if file.dropped == Some(file.changed) {
                return true;
            }
            file.dropped = (file.changed.saturating_add(SETTLED) < now).then_some(file.changed);
            false
        })
    }

    fn with<T>(&self, node: u64, work: impl FnOnce(&mut File) -> T) -> T {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut files[node as usize % FILES])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Attr {
        Attr { ctime: seconds, ctimensec: 5, ..Attr::default() }
    }

    #[test]
    fn what_has_not_changed_for_long_is_kept_from_the_second_opening_on() {
        let versions = Versions::new();
        let opened = |now| versions.may_keep_at(7, Duration::from_secs(now));
        assert!(!opened(100), "nobody was told of it");
        versions.tell(7, &at(100));
        assert!(!opened(101) && !opened(103), "it may change again at the same time");
        assert!(!opened(104), "what was read before may be older");
        assert!(opened(104) && opened(105));
        versions.tell(7, &at(110));
        assert!(!opened(120) && opened(120));
        versions.tell(7, &at(100));
        assert!(!opened(120), "another time is another version, an earlier one too");
        versions.tell(7, &at(200));
        assert!(!opened(120) && !opened(120), "of a time that is to come");
        versions.tell(7, &Attr { ctime: u64::MAX, ctimensec: u32::MAX, ..Attr::default() });
        assert!(!opened(u64::MAX));
    }

    #[test]
    fn files_that_share_a_place_are_told_apart() {
        let versions = Versions::new();
        let other = 7 + FILES as u64;
        versions.tell(7, &at(1));
        assert!(!versions.may_keep(7) && versions.may_keep(7) && !versions.may_keep(other));
        versions.tell(other, &at(1));
        assert!(!versions.may_keep(other) && versions.may_keep(other) && !versions.may_keep(7));
    }
}
