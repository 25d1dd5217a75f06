//! Has the kernel tell programs that watch files of the host (inotify) what was done to them there.
//!
//! A kernel tells only of what is done through it. So this does once more what was done on the host, as a user whose
//! requests the host's server only pretends to carry out: the kernel tells its watchers, and no file changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread::Builder;

use agent_proto::change::Kind;
use agent_proto::{Change, VOLUMES};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fallocate, lsetxattr, mkdirat,
    mknodat, open, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::thread::{CapabilitySets, capabilities, set_capabilities};
use tokio::sync::{Mutex, oneshot};

use super::rootfs::is_plain;

/// The user whose requests the server pretends to carry out.
const USER: u32 = 0xffff_fff0;
/// What a name is found as by the group that looks it up: what it is,
const AS_IT_IS: u32 = 0;
/// nothing,
const ABSENT: u32 = 1;
/// a file,
const FILE: u32 = 2;
/// or a directory.
const DIRECTORY: u32 = 3;

/// Files that stay open until the host's writer closes them; beyond these, the first is closed.
const MAX_OPEN: usize = 64;
/// Set on what has other attributes. The server knows nothing of it.
const ATTRIBUTE: &str = "trusted.supermachine.notice";

/// What the thread is told. Each is answered when it is done.
#[derive(Debug)]
enum Order {
    Tell(Vec<Change>),
    Release(Vec<String>),
}

type Orders = mpsc::Sender<(Order, oneshot::Sender<()>)>;

/// The thread that tells the kernel, if anything was told yet.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Option<Orders>>);

impl Notices {
    /// Tells of changes.
    pub(super) async fn tell(&self, changes: Vec<Change>) -> std::io::Result<()> {
        let mut orders = self.0.lock().await;
        let orders = match &mut *orders {
            Some(orders) => orders,
            none => none.insert(start().await?),
        };
        send(orders, Order::Tell(changes)).await
    }

    /// Closes what is open in volumes.
    pub(super) async fn release(&self, names: Vec<String>) -> std::io::Result<()> {
        match &*self.0.lock().await {
            Some(orders) => send(orders, Order::Release(names)).await,
            None => Ok(()),
        }
    }
}

async fn send(orders: &Orders, order: Order) -> std::io::Result<()> {
    let ended = || std::io::Error::other("the thread that tells of changes has ended");
    let (done, is_done) = oneshot::channel();
    orders.send((order, done)).map_err(|_unheard| ended())?;
    is_done.await.map_err(|_dropped| ended())
}

/// Starts the thread, which is another user than the agent's others.
async fn start() -> std::io::Result<Orders> {
    let (orders, received) = mpsc::channel::<(Order, oneshot::Sender<()>)>();
    let (ready, is_ready) = oneshot::channel();
    Builder::new().name("notices".to_owned()).spawn(move || {
        let entered = become_user();
        let may_begin = entered.is_ok();
        let _unheard = ready.send(entered);
        let mut teller = Teller::default();
        for (order, done) in received.into_iter().take_while(|_| may_begin) {
            teller.carry_out(order);
            let _unheard = done.send(());
        }
    })?;
    is_ready.await.map_err(std::io::Error::other)??;
    Ok(orders)
}

/// Makes the calling thread the user, with every capability that it had: another user loses those that are about files.
fn become_user() -> std::io::Result<()> {
    setfsuid(Uid::from_raw(USER));
    let sets = capabilities(None)?;
    Ok(set_capabilities(None, CapabilitySets { effective: sets.permitted, ..sets })?)
}

/// Has names found as something else from now on.
fn find(as_what: u32) {
    setfsgid(Gid::from_raw(as_what));
}

#[derive(Debug, Default)]
struct Teller {
    /// What was written to and not closed: by volume and path.
    open: BTreeMap<(String, PathBuf), File>,
}

impl Teller {
    fn carry_out(&mut self, order: Order) {
        match order {
            // What can't be told was done to something that is not there any more.
            Order::Tell(changes) => changes.iter().for_each(|change| {
                let _left_out = self.tell(change);
            }),
            Order::Release(names) => self.open.retain(|(volume, _), _| !names.contains(volume)),
        }
    }

    fn tell(&mut self, change: &Change) -> Result<(), Errno> {
        let path = Path::new(OsStr::from_bytes(&change.path));
        let key = || (change.volume.clone(), path.to_owned());
        find(AS_IT_IS);
        let (parent, name) = locate(&change.volume, path)?;
        match change.kind.enum_value_or_default() {
            Kind::CREATED if is_within(path) => create(&parent, name, change.is_directory),
            Kind::DELETED if is_within(path) => {
                self.open.remove(&key());
                delete(&parent, name, change.is_directory)
            }
            Kind::WRITTEN => {
                let file = match self.open.remove(&key()) {
                    Some(file) => file,
                    None => open_to_write(&parent, name)?,
                };
                fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1)?;
                if self.open.len() >= MAX_OPEN {
                    self.open.pop_first();
                }
                self.open.insert(key(), file);
                Ok(())
            }
            Kind::CLOSED => match self.open.remove(&key()) {
                Some(_closed) => Ok(()),
                None => open_to_write(&parent, name).map(drop),
            },
            Kind::ATTRIBUTES => {
                let path = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name);
                lsetxattr(path, ATTRIBUTE, &[], XattrFlags::empty())
            }
            Kind::CREATED | Kind::DELETED | Kind::KIND_UNSPECIFIED => Err(Errno::INVAL),
        }
    }
}

fn is_within(path: &Path) -> bool {
    path.file_name().is_some()
}

/// The directory that holds a path of a volume, and the name in it.
fn locate<'p>(volume: &'p str, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain(volume) || !is_below {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Some(name) = path.file_name() else { return Ok((open(VOLUMES, flags, Mode::empty())?, OsStr::new(volume))) };
    let root = openat(CWD, Path::new(VOLUMES).join(volume), flags | OFlags::NOFOLLOW, Mode::empty())?;
    let parent = match path.parent() {
        Some(parent) if is_within(parent) => {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            openat2(&root, parent, flags, Mode::empty(), resolve)?
        }
        _ => root,
    };
    Ok((parent, name))
}

fn create(parent: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<(), Errno> {
    find(ABSENT);
    match is_directory {
        true => mkdirat(parent, name, Mode::empty()),
        false => mknodat(parent, name, FileType::RegularFile, Mode::empty(), 0),
    }
}

fn delete(parent: &OwnedFd, name: &OsStr, is_directory: bool) -> Result<(), Errno> {
    let (as_what, flags) = if is_directory { (DIRECTORY, AtFlags::REMOVEDIR) } else { (FILE, AtFlags::empty()) };
    find(as_what);
    unlinkat(parent, name, flags)
}

/// Opens a regular file: what else there is has a meaning of its own here.
fn open_to_write(parent: &OwnedFd, name: &OsStr) -> Result<File, Errno> {
    let status = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_a_volume_is_located() {
        for (volume, path) in [("..", "a"), ("", "a"), ("a/b", "c"), ("a", "../b"), ("a", "/b"), ("/", "a"), (".", "")]
        {
            assert_eq!(locate(volume, Path::new(path)).unwrap_err(), Errno::INVAL, "{volume:?} {path:?}");
        }
        assert_eq!(locate("a-name-that-nothing-has", Path::new("a")).unwrap_err(), Errno::NOENT);
    }
}
