//! What a directory tree takes on disk, and getting it there.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::record::{Id, Usage};

/// `st_blocks` counts these, whatever the file system's block size.
const BLOCK: u64 = 512;

/// Calls `visit` for everything in the tree, its root first.
fn walk(root: &Path, mut visit: impl FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        visit(&path, &metadata)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(())
}

/// Blocks and inodes of a tree; a file with several names counts once.
pub(crate) fn measure(root: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut linked = HashSet::new();
    walk(root, |_path, metadata| {
        let again = !metadata.is_dir() && metadata.nlink() > 1 && !linked.insert((metadata.dev(), metadata.ino()));
        if !again {
            usage.bytes += metadata.blocks() * BLOCK;
            usage.inodes += 1;
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Disk taken by one file; nothing if there is none.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * BLOCK)
}

/// Up to so many inodes are flushed one by one; beyond, flushing the whole file system is the cheaper way.
const FLUSHED_SINGLY: u64 = 64;

/// Makes a tree of `inodes` files survive a crash of the host.
pub(crate) fn flush(root: &Path, inodes: u64) -> io::Result<()> {
    if inodes > FLUSHED_SINGLY {
        return Ok(rustix::fs::syncfs(File::open(root)?)?);
    }
    walk(
        root,
        |path, metadata| {
            if metadata.is_dir() || metadata.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
        },
    )?;
    match root.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Deletes a tree or file; that it is gone already is fine.
pub(crate) fn delete(path: &Path) -> io::Result<()> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Measured sizes of active snapshots, which containerd asks for again and again: a size is used until it is
/// [`RATIO`] times as old as it took to measure, so that measuring never takes more than one part in [`RATIO`] of
/// the time, and small trees are always measured anew.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Mutex<HashMap<Id, Measured>>);

const RATIO: u32 = 20;
/// Trees that are measured this quickly aren't remembered.
const QUICK: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy)]
struct Measured {
    usage: Usage,
    at: Instant,
    took: Duration,
}

impl Sizes {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id, Measured>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn measure(&self, id: Id, root: &Path) -> io::Result<Usage> {
        let known = self.lock().get(&id).copied();
        if let Some(known) = known
            && known.at.elapsed() < known.took * RATIO
        {
            return Ok(known.usage);
        }
        let start = Instant::now();
        let usage = measure(root)?;
        let took = start.elapsed();
        if took < QUICK {
            self.forget(id);
        } else {
            self.lock().insert(id, Measured { usage, at: Instant::now(), took });
        }
        Ok(usage)
    }

    pub(crate) fn forget(&self, id: Id) {
        self.lock().remove(&id);
    }
}
