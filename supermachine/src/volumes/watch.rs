//! What the host does to volumes, told to the guest: its programs that watch files hear of it.
//!
//! What the guest itself does, its own kernel tells. The host tells what its processes do by their ids, and the VMM's is
//! the guest's.

mod event;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_proto::change::Kind;
use agent_proto::{AgentClient, Change, NoticeChangesRequest};
use nix::sys::fanotify::MaskFlags;
use rustix::fs::FileType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{JoinSet, spawn_blocking};
use tracing::{debug, info};
use ttrpc::context::with_duration;

use super::{Opened, VolumeError, Volumes};
use crate::error::chain;
use crate::vmm::pollable;
use event::Event;
use tree::{Found, Group, Tree, WatchError};

/// Read at once.
const EVENTS_BYTES: usize = 64 << 10;
/// Told at once: paths of at most 4 KiB each.
const CHANGES: usize = 256;
/// How long the guest may take to tell its programs.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Volumes of which a guest is to hear.
#[derive(Debug, Default)]
pub struct Watchable(Vec<(String, OwnedFd)>);

/// Volumes that are watched. Dropping it ends that.
#[derive(Debug)]
pub struct Watching {
    _task: JoinSet<()>,
}

impl Volumes {
    /// Takes hold of all to watch them later.
    pub fn watchable(&self) -> Result<Watchable, VolumeError> {
        let clone = |opened: &Opened| Ok((opened.name.clone(), opened.tree.try_clone()?));
        self.0.iter().map(clone).collect::<io::Result<_>>().map(Watchable).map_err(VolumeError::Add)
    }
}

impl Watchable {
    /// Has the guest of a VMM hear of what others do, from soon on. One that can't be watched is left out: programs that
    /// look at files still see every change.
    pub(crate) fn watch(self, vmm: i32, agent: &AgentClient) -> Watching {
        let follow = (!self.0.is_empty()).then(|| follow(self, vmm, agent.clone()));
        Watching { _task: follow.into_iter().collect() }
    }
}

async fn follow(volumes: Watchable, vmm: i32, agent: AgentClient) {
    let end = match Follower::start(volumes, vmm).await {
        Ok(follower) => follower.run(&agent).await,
        Err(error) => error,
    };
    info!("programs that watch volumes (inotify) don't hear of the host's changes any more: {}", chain(&end));
}

/// Takes what the kernel says of a container's volumes.
struct Follower {
    trees: Vec<Tree>,
    events: AsyncFd<OwnedFd>,
    /// Whose doings the guest knows.
    vmm: i32,
}

impl Follower {
    async fn start(volumes: Watchable, vmm: i32) -> Result<Self, WatchError> {
        let watched = spawn_blocking(move || {
            let group = Arc::new(Group::new()?);
            let tree = |(name, root)| Tree::watch(&group, name, root).map_err(|(name, error)| leave_out(&name, &error));
            let trees = volumes.0.into_iter().map(tree).filter_map(Result::ok).collect();
            Ok::<_, WatchError>((group.events()?, trees))
        });
        let (events, trees) = watched.await.map_err(io::Error::from)??;
        Ok(Self { trees, events: pollable(events)?, vmm })
    }

    /// Tells the guest until that can't be done any more.
    async fn run(mut self, agent: &AgentClient) -> WatchError {
        loop {
            let changes = match self.next().await {
                Ok(changes) => changes,
                Err(error) => return error.into(),
            };
            for changes in changes.chunks(CHANGES) {
                let request = NoticeChangesRequest { changes: changes.to_vec(), ..Default::default() };
                if let Err(error) = agent.notice_changes(with_duration(TOLD_WITHIN), &request).await {
                    return WatchError::Host(io::Error::other(error));
                }
            }
        }
    }

    /// Waits for changes.
    async fn next(&mut self) -> io::Result<Vec<Change>> {
        let mut buffer = vec![0; EVENTS_BYTES];
        let read = |events: &OwnedFd| Ok(rustix::io::read(events, &mut buffer)?);
        let bytes = self.events.async_io(Interest::READABLE, read).await?;
        let mut changes = Vec::new();
        for event in event::parse(&buffer[..bytes]) {
            if event.done.contains(MaskFlags::FAN_Q_OVERFLOW) {
                debug!("the host made more changes than it could tell");
            }
            if event.pid != self.vmm {
                self.trees.retain_mut(|tree| tell(tree, &event, &mut changes));
            }
        }
        Ok(changes)
    }
}

/// Tells of an event, if it is one of this volume's. Whether that can be watched any longer.
fn tell(tree: &mut Tree, event: &Event, changes: &mut Vec<Change>) -> bool {
    let Some(path) = tree.path_of(&event.subjects) else { return true };
    let is_directory = event.done.contains(MaskFlags::FAN_ONDIR);
    let found = tree.find(path.clone()).filter(|found| (found.kind == FileType::Directory) == is_directory);
    for kind in kinds(event.done, found.as_ref().map(|found| found.kind)) {
        changes.push(change(&tree.volume, kind, &path, is_directory));
    }
    if is_directory && event.done.intersects(MaskFlags::FAN_DELETE | MaskFlags::FAN_MOVED_FROM) {
        tree.forget(&path);
    }
    if is_directory && found.is_some() && event.done.intersects(MaskFlags::FAN_CREATE | MaskFlags::FAN_MOVED_TO) {
        match tree.add(&path) {
            Ok(found) => changes.extend(found.iter().flat_map(|found| made(&tree.volume, found))),
            Err(error) => {
                tree.leave();
                leave_out(&tree.volume, &error);
                return false;
            }
        }
    }
    true
}

fn leave_out(volume: &str, error: &WatchError) {
    info!(volume, "programs that watch it (inotify) don't hear of the host's changes: {}", chain(error));
}

/// What there was in a directory when it began to be watched: some of it may have been made before.
fn made(volume: &str, found: &Found) -> Vec<Change> {
    let mut changes = vec![change(volume, Kind::CREATED, &found.path, found.kind == FileType::Directory)];
    if found.kind == FileType::RegularFile {
        changes.push(change(volume, Kind::CLOSED, &found.path, false));
    }
    changes
}

fn change(volume: &str, kind: Kind, path: &Path, is_directory: bool) -> Change {
    Change {
        kind: kind.into(),
        volume: volume.to_owned(),
        path: path.as_os_str().as_bytes().to_vec(),
        is_directory,
        ..Default::default()
    }
}

/// What was done, in an order in which it can have been done: the kernel tells it all at once if nobody has asked in
/// between. `now` is what there is at that place.
fn kinds(done: MaskFlags, now: Option<FileType>) -> Vec<Kind> {
    let is_made = done.intersects(MaskFlags::FAN_CREATE | MaskFlags::FAN_MOVED_TO);
    let is_removed = done.intersects(MaskFlags::FAN_DELETE | MaskFlags::FAN_MOVED_FROM);
    let is_file = now == Some(FileType::RegularFile);
    let is_closed = done.contains(MaskFlags::FAN_CLOSE_WRITE) || done.contains(MaskFlags::FAN_MOVED_TO);
    let all = [
        (Kind::DELETED, is_removed && now.is_some()),
        (Kind::CREATED, is_made),
        (Kind::WRITTEN, is_file && done.contains(MaskFlags::FAN_MODIFY)),
        (Kind::CLOSED, is_file && is_closed),
        (Kind::ATTRIBUTES, now.is_some() && done.contains(MaskFlags::FAN_ATTRIB)),
        (Kind::DELETED, is_removed && now.is_none()),
    ];
    all.into_iter().filter_map(|(kind, is_done)| is_done.then_some(kind)).collect()
}

#[cfg(test)]
mod tests;
