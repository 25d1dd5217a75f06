//! The files of a bake: opened by name, trusted by owner, read as untrusted.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::key::Key;
use crate::ledger::Checked;
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest, Part};
use crate::reason::{Damage, Reason};
use crate::subject::Subject;
use crate::trust::distrust;

pub(super) fn unreadable(key: &Key, path: &Path, error: io::Error) -> Reason {
    Reason::Unreadable { key: *key, path: path.to_owned(), error }
}

/// Opens a file or directory that only this user may have written; None if it doesn't exist.
pub(super) fn open_trusted(
    key: &Key,
    at: impl std::os::fd::AsFd,
    name: &Path,
    full: &Path,
    flags: OFlags,
) -> Result<Option<File>, Reason> {
    // Reading is no use: when a manifest was last accessed says when its bake was last used.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOATIME | flags;
    let opened = match openat(&at, name, flags, Mode::empty()) {
        // Only its owner may do that, and others are told below.
        Err(Errno::PERM) => openat(at, name, flags - OFlags::NOATIME, Mode::empty()),
        opened => opened,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(unreadable(key, full, error.into())),
    };
    let metadata = file.metadata().map_err(|error| unreadable(key, full, error))?;
    match distrust(full, &metadata) {
        Some(problem) => Err(Reason::Untrusted { key: *key, path: full.to_owned(), problem }),
        None => Ok(Some(file)),
    }
}

pub(super) fn read_manifest(subject: &Subject, key: &Key, path: &Path, file: &File) -> Result<Manifest, Reason> {
    let manifest = decode_manifest(key, path, file)?;
    match subject.difference(&manifest.subject) {
        Some(difference) => Err(Reason::Corrupt { key: *key, damage: Damage::Foreign { difference } }),
        None => Ok(manifest),
    }
}

pub(super) fn decode_manifest(key: &Key, path: &Path, file: &File) -> Result<Manifest, Reason> {
    let mut bytes = Vec::new();
    let limit = MAX_MANIFEST_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(key, path, error))?;
    Manifest::decode(&bytes).map_err(|error| Reason::Corrupt { key: *key, damage: Damage::Manifest(error) })
}

/// Whether a file was removed between opening and locking it.
pub(super) fn is_gone(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink() == 0)
}

pub(super) fn check_size(key: &Key, file: &'static str, checked: &Checked) -> Result<(), Reason> {
    let (found, Part { bytes: expected, .. }) = (checked.identity.size(), checked.part);
    if found == expected {
        return Ok(());
    }
    Err(Reason::Corrupt { key: *key, damage: Damage::Size { file, found, expected } })
}

/// A name that nothing else in this store has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
