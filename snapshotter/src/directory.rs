//! The daemon's directory.
//!
//! ```text
//! lock                         held by the one daemon that uses this directory
//! metadata.redb                records (metastore.rs)
//! upper-template.ext4          what the shim copies to make a writable disk (template.rs)
//! snapshots/<id>/fs            the snapshot's files: an overlay's upper directory while active, then a lower one
//! snapshots/<id>/work          the overlay's work directory, only while active
//! snapshots/<id>/layer.squashfs  `fs` of a committed snapshot, converted; complete if it has this name
//! snapshots/<id>/upper.ext4    the writable disk of an active snapshot's VM, made by the shim; what else concerns it
//!                              is listed at `WritableLayer`
//! snapshots/rm-<id>            removed, to be deleted by Cleanup
//! ```
//!
//! A folder named by a number that no record has is an orphan of a crash and is deleted like a removed one.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use supermachine::WritableLayer;

use crate::record::Id;

/// Where things are. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    snapshots: PathBuf,
    _lock: File,
}

/// Why the daemon can't use its directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("the snapshotter's directory {path} can't be used")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another supermachine-snapshotter uses {path}: stop it, or choose another directory")]
    InUse { path: PathBuf },
    #[error("the snapshotter's directory must be an absolute path without ':', ',' and '\\' (overlay options): {path}")]
    Name { path: PathBuf },
}

impl Directory {
    /// Makes what is missing of the directory and locks it until the value is dropped.
    pub(crate) fn open(root: &Path) -> Result<Self, DirectoryError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DirectoryError::Io { path, source }
        };
        let text = root.to_str().unwrap_or(",");
        if !root.is_absolute() || text.contains([':', ',', '\\']) {
            return Err(DirectoryError::Name { path: root.to_owned() });
        }
        let snapshots = root.join("snapshots");
        DirBuilder::new().recursive(true).mode(0o700).create(&snapshots).map_err(failed(&snapshots))?;
        let path = root.join("lock");
        let lock = File::options().create(true).write(true).truncate(false).open(&path).map_err(failed(&path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root: root.to_owned(), snapshots, _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DirectoryError::InUse { path: root.to_owned() }),
            Err(error) => Err(failed(&path)(error.into())),
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("metadata.redb")
    }

    pub(crate) fn template(&self) -> PathBuf {
        self.root.join("upper-template.ext4")
    }

    /// The folder of all snapshots.
    pub(crate) fn snapshots(&self) -> &Path {
        &self.snapshots
    }

    /// The folder of one snapshot.
    pub(crate) fn snapshot(&self, id: Id) -> PathBuf {
        self.snapshots.join(id.to_string())
    }

    pub(crate) fn files(&self, id: Id) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    pub(crate) fn work(&self, id: Id) -> PathBuf {
        self.snapshot(id).join("work")
    }

    pub(crate) fn layer(&self, id: Id) -> PathBuf {
        self.snapshot(id).join("layer.squashfs")
    }

    /// The folder as that of a writable layer.
    pub(crate) fn writable(&self, id: Id) -> WritableLayer {
        WritableLayer::new(self.snapshot(id))
    }

    /// The snapshot whose `fs` this path is.
    pub(crate) fn owner_of(&self, files: &Path) -> Option<Id> {
        let number = files.strip_prefix(&self.snapshots).ok()?.to_str()?.strip_suffix("/fs")?;
        let id = number.parse().ok().map(Id)?;
        // Exactly one spelling: no sign, no leading zero.
        (id.to_string() == number).then_some(id)
    }

    /// Makes a snapshot's folder. The root of its files gets the owner and mode of `like`'s, since in the mounted
    /// overlay the topmost directory decides.
    pub(crate) fn make(&self, id: Id, writable: bool, like: Option<Id>) -> io::Result<()> {
        let folder = self.snapshot(id);
        if folder.exists() {
            // Left by a transaction that failed after it had made the folder.
            self.discard(id)?;
        }
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        if writable {
            fs::create_dir(self.work(id))?;
            fs::set_permissions(self.work(id), Permissions::from_mode(0o711))?;
        }
        let files = self.files(id);
        fs::create_dir(&files)?;
        let mode = match like {
            None => 0o755,
            Some(parent) => {
                let parent = fs::metadata(self.files(parent))?;
                chown(&files, Some(parent.uid()), Some(parent.gid()))?;
                parent.mode() & 0o7777
            }
        };
        fs::set_permissions(&files, Permissions::from_mode(mode))
    }

    /// Makes the folders that a snapshot lost in a crash of the host, which may happen as making one isn't flushed.
    /// Returns whether something was missing.
    pub(crate) fn repair(&self, id: Id, writable: bool, like: Option<Id>) -> io::Result<bool> {
        let whole = self.files(id).is_dir() && (!writable || self.work(id).is_dir());
        if !whole {
            self.make(id, writable, like)?;
        }
        Ok(!whole)
    }

    /// Renames a removed snapshot's folder so that it can be deleted at leisure.
    pub(crate) fn discard(&self, id: Id) -> io::Result<()> {
        let mut target = self.snapshots.join(format!("rm-{id}"));
        let mut attempt = 0;
        while target.exists() {
            attempt += 1;
            target = self.snapshots.join(format!("rm-{id}-{attempt}"));
        }
        fs::rename(self.snapshot(id), target)
    }

    /// Renames the folders of snapshots that aren't `known`, then names everything that is to be deleted.
    pub(crate) fn garbage(&self, known: &[Id]) -> io::Result<Vec<PathBuf>> {
        for entry in fs::read_dir(&self.snapshots)? {
            let name = entry?.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.parse().ok()).map(Id)
                && !known.contains(&id)
            {
                self.discard(id)?;
            }
        }
        let mut garbage = Vec::new();
        for entry in fs::read_dir(&self.snapshots)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b"rm-") {
                garbage.push(entry.path());
            }
        }
        Ok(garbage)
    }
}
