//! A container's writable layer, in its folder:
//!
//! ```text
//! fs                what the host sees and may change
//! upper.ext4        the disk of its VMs
//! agreed            there as long as the disk has nothing that `fs` hasn't
//! upper.fresh.ext4  becomes the disk once it holds what is in `fs`
//! upper.ext4.warm   becomes the disk once the container of a warm bake that has it was adopted
//! vm                whom to ask while a VM has the disk
//! export-*          becomes `fs` once it holds what is on the disk
//! ```
//!
//! One of the two counts at any time ([`Truth`]): `fs` as long as there is no disk, or if something in it is newer than
//! `agreed`; else the disk. A crash between any two steps of what follows loses nothing:
//!
//! - *Export*: the archive is unpacked beside `fs`, the two are exchanged and brought to the host's disk, and if no VM
//!   runs, `agreed` is written. Before that the disk counts as it did, and is exported again.
//! - *Start from the disk*: `agreed` is removed before the VM starts, so that `fs` can't count while the VM writes.
//! - *Start from `fs`*: a fresh disk is filled, and brought to the host's disk by the guest; then it replaces the disk;
//!   then `agreed` is removed; and only then a process of the container may run. Before the replacement `fs` counts
//!   as it did. Between the two it still does, and is taken again.

mod export;
mod import;
mod lock;
mod tar;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};

use crate::disks::warm_disk;
pub use export::{ExportError, Exported, Exporter};
pub use import::{Import, ImportError};
pub use lock::lock_disk;

/// How long the clock may take to move on.
const CLOCK_WITHIN: Duration = Duration::from_secs(1);
const CLOCK_POLL: Duration = Duration::from_millis(1);

/// What the names of exports begin with.
const EXPORT: &str = "export-";

/// Which form of a writable layer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// The files.
    Files,
    /// The disk.
    Disk,
    /// They are the same.
    Both,
}

/// A container's writable layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritableLayer {
    folder: PathBuf,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct WritableError {
    /// What was tried.
    pub action: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl WritableLayer {
    /// The one in this folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The one with these files.
    pub fn of(files: &Path) -> Self {
        Self::new(files.parent().unwrap_or(files).to_owned())
    }

    /// Its files.
    pub fn files(&self) -> PathBuf {
        self.folder.join("fs")
    }

    /// Its disk, which may not exist.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("upper.ext4")
    }

    /// The disk to be filled with its files.
    pub fn fresh_disk(&self) -> PathBuf {
        self.folder.join("upper.fresh.ext4")
    }

    /// The disk of a VM that was restored from a warm bake, as long as its container isn't adopted.
    pub fn warm_disk(&self) -> PathBuf {
        warm_disk(&self.disk())
    }

    fn agreed(&self) -> PathBuf {
        self.folder.join("agreed")
    }

    fn note(&self) -> PathBuf {
        self.folder.join("vm")
    }

    /// Which of its forms counts. Looks at all its files if it must.
    pub fn truth(&self) -> Result<Truth, WritableError> {
        let disk = self.disk();
        if !disk.try_exists().map_err(failed("look at", &disk))? {
            return Ok(Truth::Files);
        }
        let agreed = self.agreed();
        let agreed = match fs::metadata(&agreed) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Truth::Disk),
            metadata => metadata.map_err(failed("look at", &agreed))?,
        };
        let since = (agreed.mtime(), agreed.mtime_nsec());
        let changed = any_changed(&self.files(), since).map_err(failed("look at", &self.files()))?;
        Ok(if changed { Truth::Files } else { Truth::Both })
    }

    /// Whether nothing was ever written to it, by anybody.
    pub fn is_untouched(&self) -> bool {
        let has_no_files = || fs::read_dir(self.files()).is_ok_and(|mut entries| entries.next().is_none());
        !self.disk().exists() && has_no_files()
    }

    /// Whether the disk may have something that the files haven't.
    pub fn is_ahead(&self) -> bool {
        self.disk().exists() && !self.agreed().exists()
    }

    /// From here on the disk counts alone.
    pub fn give_to_disk(&self) -> Result<(), WritableError> {
        let agreed = self.agreed();
        match fs::remove_file(&agreed) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.flush_folder()).map_err(failed("remove", &agreed)),
        }
    }

    /// Makes the fresh disk, which holds what the files do, the disk, which counts from here on.
    pub fn give_to_fresh_disk(&self) -> Result<(), WritableError> {
        let fresh = self.fresh_disk();
        fs::rename(&fresh, self.disk()).and_then(|()| self.flush_folder()).map_err(failed("put in place", &fresh))?;
        self.give_to_disk()
    }

    /// Removes a disk to which nothing was ever written: the files count.
    pub fn remove_disk(&self) -> Result<(), WritableError> {
        fs::remove_file(self.disk()).map_err(failed("remove", &self.disk()))
    }

    /// Replaces the files by those in `export`, a directory beside them, which then holds what was there before.
    pub fn replace_files(&self, export: &Path) -> Result<(), WritableError> {
        let files = self.files();
        let exchange = || {
            renameat_with(CWD, export, CWD, &files, RenameFlags::EXCHANGE)?;
            Ok(syncfs(File::open(&files)?)?)
        };
        exchange().map_err(failed("replace", &files))
    }

    /// Where a next export can go.
    pub fn new_export(&self) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{EXPORT}{}-{number}", std::process::id()))
    }

    /// What exports have left: what was there before, or what was cut off.
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, WritableError> {
        let list = || {
            let mut leftovers = Vec::new();
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                if entry.file_name().as_encoded_bytes().starts_with(EXPORT.as_bytes()) {
                    leftovers.push(entry.path());
                }
            }
            Ok(leftovers)
        };
        list().map_err(failed("read", &self.folder))
    }

    /// From here on files and disk are the same, until one changes. The note of it is newer than any change so far.
    pub fn agree(&self) -> Result<(), WritableError> {
        let agreed = self.agreed();
        let note = || {
            let changed = |metadata: fs::Metadata| (metadata.ctime(), metadata.ctime_nsec());
            // Made, renamed or looked at last.
            let last = changed(fs::metadata(self.files())?);
            let deadline = Instant::now() + CLOCK_WITHIN;
            let mut file = File::create(&agreed)?;
            loop {
                file.write_all(b"\n")?;
                let metadata = file.metadata()?;
                // If the clock was set back, the files seem to be newer and count, which does no harm: they have
                // everything that the disk has.
                if (metadata.mtime(), metadata.mtime_nsec()) > last || Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(CLOCK_POLL);
            }
            file.sync_all()?;
            self.flush_folder()
        };
        note().map_err(failed("write", &agreed))
    }

    /// Whether a VM has the disk, or the one that is to replace it.
    pub fn is_in_use(&self) -> Result<bool, WritableError> {
        for disk in [self.disk(), self.fresh_disk()] {
            match File::open(&disk).and_then(|file| lock::is_locked(&file)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Ok(false) => {}
                locked => return locked.map_err(failed("look at", &disk)),
            }
        }
        Ok(false)
    }

    /// Notes whom to ask for what is on the disk.
    pub fn note_vm(&self, asked: &AskedAt) -> Result<VmNote, WritableError> {
        let path = self.note();
        let text = format!("{}\n{}\n", asked.address, asked.container);
        fs::write(&path, text).map_err(failed("write", &path))?;
        Ok(VmNote(path))
    }

    /// Whom to ask while the disk is in use. None before it is noted, and after a VM's end.
    pub fn vm(&self) -> Option<AskedAt> {
        let text = fs::read_to_string(self.note()).ok()?;
        let (address, container) = text.trim_end().split_once('\n')?;
        Some(AskedAt { address: address.to_owned(), container: container.to_owned() })
    }

    fn flush_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

/// Who has a VM, and for which container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedAt {
    /// A ttrpc address.
    pub address: String,
    /// The container's id.
    pub container: String,
}

/// A note that goes when this is dropped.
#[derive(Debug)]
pub struct VmNote(PathBuf);

impl Drop for VmNote {
    fn drop(&mut self) {
        // With the snapshot it may be gone already.
        let _gone = fs::remove_file(&self.0);
    }
}

/// Whether anything in a tree was changed at that time (of a file's `ctime`) or later.
fn any_changed(root: &Path, since: (i64, i64)) -> io::Result<bool> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = match fs::symlink_metadata(&path) {
            // It is being changed right now.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
            metadata => metadata?,
        };
        if (metadata.ctime(), metadata.ctime_nsec()) >= since {
            return Ok(true);
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(false)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WritableError {
    let path = path.to_owned();
    move |source| WritableError { action, path, source }
}

#[cfg(test)]
mod tests;
