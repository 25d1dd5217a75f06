//! The directories of a volume, each watched.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mount_tree::{FileHandle, file_handle};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::event::Subject;

/// Directories of one volume that are watched at most. More would take the kernel's memory and time on every start, and
/// trees of that size are rarely edited by hand.
pub(super) const MAX_DIRECTORIES: usize = 1024;
/// `FAN_REPORT_DFID_NAME | FAN_REPORT_FID`: files are told by their directories' handles and their names, or by their own.
const BY_HANDLE: u32 = 0x0e00;

/// A volume can't be watched.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// It is too large.
    #[error("it has more than {MAX_DIRECTORIES} directories")]
    TooLarge,
    /// The host watches for too many.
    #[error("the host watches for as many containers as it may; raise fs.fanotify.max_user_groups (sysctl)")]
    TooMany,
    /// The kernel doesn't watch it.
    #[error("the host doesn't watch it")]
    Host(#[from] io::Error),
}

/// A file in the tree.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) kind: FileType,
}

/// Where events of some trees arrive. The kernel allows each user 128 of them.
#[derive(Debug)]
pub(super) struct Group(Fanotify);

impl Group {
    pub(super) fn new() -> Result<Self, WatchError> {
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let flags = flags | InitFlags::FAN_UNLIMITED_MARKS | InitFlags::from_bits_retain(BY_HANDLE);
        match Fanotify::init(flags, EventFFlags::O_RDONLY) {
            Ok(group) => Ok(Self(group)),
            Err(nix::errno::Errno::EMFILE) => Err(WatchError::TooMany),
            Err(error) => Err(WatchError::Host(error.into())),
        }
    }

    /// What is readable when there are events.
    pub(super) fn events(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    fn mark(&self, flags: MarkFlags, mask: MaskFlags, file: &OwnedFd) -> io::Result<()> {
        Ok(self.0.mark(flags, mask, file, None::<&Path>)?)
    }
}

/// What is watched of a file.
const OF_FILES: MaskFlags = MaskFlags::FAN_MODIFY.union(MaskFlags::FAN_CLOSE_WRITE).union(MaskFlags::FAN_ATTRIB);
/// What is watched of a directory and the files in it.
const OF_DIRECTORIES: MaskFlags = OF_FILES
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVE)
    .union(MaskFlags::FAN_ONDIR)
    .union(MaskFlags::FAN_EVENT_ON_CHILD);

/// A volume: a tree of directories on one file system, or a single file.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its name.
    pub(super) volume: String,
    group: Arc<Group>,
    root: OwnedFd,
    device: u64,
    paths: HashMap<FileHandle, PathBuf>,
}

impl Tree {
    /// Watches a directory and all below it. If that can't be, nothing of it is, and the error brings the name.
    pub(super) fn watch(group: &Arc<Group>, volume: String, root: OwnedFd) -> Result<Self, (String, WatchError)> {
        let status = match fstat(&root) {
            Ok(status) => status,
            Err(error) => return Err((volume, WatchError::Host(error.into()))),
        };
        let group = Arc::clone(group);
        let mut tree = Self { volume, group, root, device: status.st_dev, paths: HashMap::new() };
        let watched = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => tree.add(Path::new("")).map(drop),
            FileType::RegularFile => tree.add_root_file().map_err(WatchError::from),
            // Nothing is ever said of it.
            _ => Ok(()),
        };
        match watched {
            Ok(()) => Ok(tree),
            Err(error) => {
                tree.leave();
                Err((tree.volume, error))
            }
        }
    }

    fn add_root_file(&mut self) -> io::Result<()> {
        let path = Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string());
        self.mark(&File::open(path)?.into(), Path::new(""), OF_FILES)
    }

    /// Watches nothing any more.
    pub(super) fn leave(&self) {
        for path in self.paths.values() {
            // One that has gone isn't watched either.
            let _gone = self
                .open(path)
                .map(|directory| self.group.mark(MarkFlags::FAN_MARK_REMOVE, OF_DIRECTORIES, &directory));
        }
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, within(path), flags, Mode::empty())
    }

    /// Watches a directory and all below it, and answers what is there. One that has gone is left out.
    pub(super) fn add(&mut self, path: &Path) -> Result<Vec<Found>, WatchError> {
        let mut found = Vec::new();
        let mut left = vec![path.to_owned()];
        while let Some(path) = left.pop() {
            let here = self.add_one(&path)?;
            left.extend(here.iter().filter(|file| file.kind == FileType::Directory).map(|file| file.path.clone()));
            found.extend(here);
        }
        Ok(found)
    }

    fn add_one(&mut self, path: &Path) -> Result<Vec<Found>, WatchError> {
        let directory = match self.open(path) {
            Ok(directory) => directory,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            Err(error) => return Err(WatchError::Host(error.into())),
        };
        // What else is mounted there is another file system, with handles of its own.
        if fstat(&directory).map_err(io::Error::from)?.st_dev != self.device {
            return Ok(Vec::new());
        }
        if self.paths.len() >= MAX_DIRECTORIES {
            return Err(WatchError::TooLarge);
        }
        // Before it is listed: what is made in between is listed, or told, or both.
        self.mark(&directory, path, OF_DIRECTORIES)?;
        let entries = Dir::new(directory).map_err(io::Error::from)?;
        let found = entries.filter_map(Result::ok).filter_map(|entry| {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            (name != "." && name != "..").then(|| path.join(name)).and_then(|path| self.find(path))
        });
        Ok(found.collect())
    }

    fn mark(&mut self, file: &OwnedFd, path: &Path, mask: MaskFlags) -> io::Result<()> {
        let handle = file_handle(file.as_fd())?;
        self.group.mark(MarkFlags::FAN_MARK_ADD, mask, file)?;
        self.paths.insert(handle, path.to_owned());
        Ok(())
    }

    /// Forgets a directory, which has another place now or none, and all below it.
    pub(super) fn forget(&mut self, path: &Path) {
        self.paths.retain(|_, known| !known.starts_with(path));
    }

    /// Where the file of an event is.
    pub(super) fn path_of(&self, subjects: &[Subject]) -> Option<PathBuf> {
        subjects.iter().find_map(|Subject { handle, name }| {
            let path = self.paths.get(handle)?;
            match name {
                // Said of a directory by itself; its own directory says so too, but for the first.
                Some(name) if name == "." => path.as_os_str().is_empty().then(PathBuf::new),
                Some(name) => Some(path.join(name)),
                None => Some(path.clone()),
            }
        })
    }

    /// A file of the tree, if it exists.
    pub(super) fn find(&self, path: PathBuf) -> Option<Found> {
        let status = match path.as_os_str().is_empty() {
            true => fstat(&self.root),
            false => statat(&self.root, &path, AtFlags::SYMLINK_NOFOLLOW),
        };
        Some(Found { kind: FileType::from_raw_mode(status.ok()?.st_mode), path })
    }
}

/// A path as the kernel takes it.
fn within(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
