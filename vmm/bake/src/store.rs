//! The directory of bakes.
//!
//! `<store>/<key>/{manifest,state,memory,upper}`. A bake appears by a rename and disappears by one, so that nobody ever
//! sees half of one. Whoever uses a bake holds a shared lock on its manifest.

mod files;
mod in_use;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, FlockOperation, OFlags, flock, renameat};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::draft::{self, Draft};
use crate::identity::FileIdentity;
use crate::key::Key;
use crate::ledger::{Checked, Ledger};
use crate::manifest::Manifest;
use crate::reason::{Damage, Reason};
use crate::subject::Subject;
pub(crate) use files::unique;
use files::{check_size, decode_manifest, is_gone, open_trusted, read_manifest, unreadable};
pub use in_use::{Bake, Pin};

pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const STATE: &str = "state";
pub(crate) const MEMORY: &str = "memory";
pub(crate) const UPPER: &str = "upper";

/// What the store has for a key.
#[derive(Debug)]
pub enum Lookup {
    /// A bake, checked and locked.
    Hit(Box<Bake>),
    /// Nothing usable.
    Miss(Reason),
}

/// A bake whose manifest is good. Its other files may still have to be read through.
#[derive(Debug)]
pub struct Candidate {
    bake: Bake,
    files: Vec<Checked>,
    is_verified: bool,
    over: Option<Box<Candidate>>,
    ledger: Ledger,
}

/// The store can't be worked with.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct StoreError {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Says that its holder alone makes bakes in a store on its own account, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// A bake in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Bytes that its files occupy on the disk.
    pub disk_bytes: u64,
    /// When it was made, if that can be told.
    pub made_at: Option<SystemTime>,
    /// When a VM was last restored from it, or it was made, if that can be told.
    pub used_at: Option<SystemTime>,
    /// Whether a VM runs from it.
    pub in_use: bool,
}

/// A directory of bakes. Making one of these touches nothing.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    ledger: Ledger,
}

impl Store {
    /// The store in `directory`. What has been verified is remembered in `run_directory`, which must not survive a
    /// reboot.
    pub fn new(directory: PathBuf, run_directory: &Path) -> Self {
        Self { directory, ledger: Ledger::new(run_directory.join("verified")) }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Finds a bake and checks it, reading through its files unless that was done before. A damaged bake is removed.
    pub fn lookup(&self, subject: &Subject) -> Lookup {
        match self.open(subject).and_then(Candidate::verify) {
            Ok(bake) => Lookup::Hit(Box::new(bake)),
            Err(reason) => Lookup::Miss(self.dispose(reason)),
        }
    }

    /// Opens and locks a bake, and the one it lies over, and checks their manifests. Reads no large file. The caller hands
    /// a failure to [`Self::dispose`].
    pub fn open(&self, subject: &Subject) -> Result<Candidate, Reason> {
        let key = &subject.key();
        let path = self.directory.join(key.to_string());
        let directory = open_trusted(key, CWD, &path, &path, OFlags::DIRECTORY)?;
        let directory = directory.ok_or(Reason::absent(subject.level()))?;
        let file = |name: &'static str| -> Result<(File, FileIdentity), Reason> {
            let full = path.join(name);
            let file = open_trusted(key, &directory, Path::new(name), &full, OFlags::empty())?
                .ok_or(Reason::Corrupt { key: *key, damage: Damage::Missing { file: name } })?;
            let metadata = file.metadata().map_err(|error| unreadable(key, &full, error))?;
            Ok((file, FileIdentity::from(&metadata)))
        };
        let (lock, _) = file(MANIFEST)?;
        // Waits for whoever looks whether the bake is in use, or removes it, which is noticed when it is read.
        flock(&lock, FlockOperation::LockShared)
            .map_err(|error| unreadable(key, &path.join(MANIFEST), error.into()))?;
        if is_gone(&lock).map_err(|error| unreadable(key, &path.join(MANIFEST), error))? {
            return Err(Reason::absent(subject.level()));
        }
        let manifest = read_manifest(subject, key, &path.join(MANIFEST), &lock)?;
        let over = subject.parent().map(|parent| self.open(&parent).map(Box::new)).transpose()?;
        if manifest.over != over.as_ref().map(|over| over.bake.manifest.memory.digest) {
            return Err(Reason::Corrupt { key: *key, damage: Damage::Orphaned });
        }
        let (state, state_identity) = file(STATE)?;
        let (memory, memory_identity) = file(MEMORY)?;
        let mut files = vec![
            Checked { part: manifest.state, identity: state_identity },
            Checked { part: manifest.memory, identity: memory_identity },
        ];
        let upper = match &manifest.upper {
            Some(upper) => {
                let (file, identity) = file(UPPER)?;
                files.push(Checked { part: upper.part, identity });
                Some(file)
            }
            None => None,
        };
        for (name, checked) in [STATE, MEMORY, UPPER].into_iter().zip(&files) {
            check_size(key, name, checked)?;
        }
        let is_verified = self.ledger.vouches(key, &files);
        let pin = Pin { lock, _over: None };
        let bake = Bake { key: *key, manifest, state, memory, upper, over: None, pin };
        Ok(Candidate { bake, files, is_verified, over, ledger: self.ledger.clone() })
    }

    /// Reads the manifest of any bake, for this machine or not. Locks and removes nothing.
    pub fn manifest(&self, key: &Key) -> Result<Manifest, Reason> {
        let path = self.directory.join(key.to_string());
        let directory = open_trusted(key, CWD, &path, &path, OFlags::DIRECTORY)?.ok_or(Reason::Absent)?;
        let path = path.join(MANIFEST);
        let file = open_trusted(key, &directory, Path::new(MANIFEST), &path, OFlags::empty())?;
        let missing = Reason::Corrupt { key: *key, damage: Damage::Missing { file: MANIFEST } };
        let file = file.ok_or(missing)?;
        if is_gone(&file).map_err(|error| unreadable(key, &path, error))? {
            return Err(Reason::Absent);
        }
        let manifest = decode_manifest(key, &path, &file)?;
        if manifest.subject.key() != *key {
            let difference = "its key belongs to something else".to_owned();
            return Err(Reason::Corrupt { key: *key, damage: Damage::Foreign { difference } });
        }
        Ok(manifest)
    }

    /// Draws the consequence of a failed lookup: a damaged bake leaves the store.
    pub fn dispose(&self, reason: Reason) -> Reason {
        if let Reason::Corrupt { key, .. } = &reason {
            self.discard(key);
        }
        reason
    }

    /// Removes a bake that turned out to be unusable, in use or not, and says so as a reason.
    pub fn quarantine(&self, key: Key, message: String) -> Reason {
        self.dispose(Reason::Corrupt { key, damage: Damage::Unusable { message } })
    }

    /// Claims the store for a daemon. Nothing if another one, of this node or, on a shared disk, of another, has it.
    pub fn claim(&self) -> Result<Option<Claim>, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| self.error("create", &self.directory, source))?;
        let path = self.directory.join(".claim");
        let open = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
        let lock = open.map_err(|source| self.error("open", &path, source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Claim { _lock: lock })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.error("lock", &path, error.into())),
        }
    }

    /// Begins a new bake. Left-overs of crashed attempts are swept away.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        draft::begin(self)
    }

    /// All bakes.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.error("list", &self.directory, source)),
        };
        let keys = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<Key>().ok());
        let mut list: Vec<_> = keys.map(|key| self.entry(key)).collect();
        list.sort_by_key(|entry| entry.key);
        Ok(list)
    }

    /// Removes a bake. `Ok(false)` if a VM runs from it or if there is no such bake.
    pub fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        let manifest = self.directory.join(key.to_string()).join(MANIFEST);
        let lock = match File::open(&manifest) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(self.error("open", &manifest, source)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(self.error("lock", &manifest, error.into())),
        }
        if is_gone(&lock).map_err(|source| self.error("examine", &manifest, source))? {
            // Somebody removed it first, and what has its name now is another bake.
            return Ok(false);
        }
        self.take_away(key)?;
        Ok(true)
    }

    /// Removes bakes until those that are left take at most so many bytes of the disk: those first that haven't been used
    /// for longest. What is in use, and `kept`, stays.
    pub fn shrink(&self, disk_bytes: u64, kept: &Key) -> Result<Vec<Entry>, StoreError> {
        let mut entries = self.list()?;
        let mut total: u64 = entries.iter().map(|entry| entry.disk_bytes).sum();
        entries.retain(|entry| entry.key != *kept);
        entries.sort_by_key(|entry| entry.used_at);
        let mut removed = Vec::new();
        for entry in entries {
            if total <= disk_bytes {
                break;
            }
            if self.remove(&entry.key)? {
                total = total.saturating_sub(entry.disk_bytes);
                removed.push(entry);
            }
        }
        Ok(removed)
    }

    fn entry(&self, key: Key) -> Entry {
        use std::os::unix::fs::MetadataExt;
        let path = self.directory.join(key.to_string());
        let blocks =
            [MANIFEST, STATE, MEMORY, UPPER].map(|name| fs::metadata(path.join(name)).map_or(0, |file| file.blocks()));
        let lock = File::open(path.join(MANIFEST));
        let metadata = lock.as_ref().ok().and_then(|manifest| manifest.metadata().ok());
        let made_at = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        let used_at = metadata.as_ref().and_then(|metadata| metadata.accessed().ok());
        let in_use = lock.is_ok_and(|lock| {
            flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err_and(|error| error == Errno::WOULDBLOCK)
        });
        Entry { key, disk_bytes: blocks.iter().sum::<u64>() * 512, made_at, used_at, in_use }
    }

    fn discard(&self, key: &Key) {
        if let Err(error) = self.take_away(key) {
            tracing::warn!(%key, error = %error, cause = %error.source, "a corrupt bake can't be removed");
        }
    }

    /// Renames a bake out of sight and deletes it.
    fn take_away(&self, key: &Key) -> Result<(), StoreError> {
        self.ledger.forget(key);
        let from = self.directory.join(key.to_string());
        let to = self.directory.join(unique(".removed"));
        match renameat(CWD, &from, CWD, &to) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(self.error("rename", &from, error.into())),
        }
        remove_tree(&to).map_err(|source| self.error("remove", &to, source))
    }

    pub(crate) fn error(&self, action: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError { action, path: path.to_owned(), source }
    }
}

impl Candidate {
    /// Whether the bake's files, and those of the one it lies over, have been checked since the host booted and are
    /// unchanged.
    pub fn is_verified(&self) -> bool {
        self.is_verified && self.over.as_ref().is_none_or(|over| over.is_verified())
    }

    /// Checks the digests of the bake's files if that hasn't been done, which reads all of them.
    pub fn verify(self) -> Result<Bake, Reason> {
        let Self { bake, files, is_verified, over, ledger } = self;
        let over = over.map(|over| over.verify().map(Box::new)).transpose()?;
        let bake = Bake { over, ..bake };
        if is_verified {
            return Ok(bake);
        }
        let opened = [Some(&bake.state), Some(&bake.memory), bake.upper.as_ref()];
        for ((name, file), part) in
            [STATE, MEMORY, UPPER].into_iter().zip(opened).zip(files.iter().map(|file| file.part))
        {
            let Some(file) = file else { continue };
            let digest = Digest::of_file(file).map_err(|error| unreadable(&bake.key, Path::new(name), error))?;
            if digest != part.digest {
                return Err(Reason::Corrupt { key: bake.key, damage: Damage::Contents { file: name } });
            }
        }
        // The identities were taken before the contents were read: a change since then makes the record worthless.
        ledger.record(&bake.key, &files);
        Ok(bake)
    }
}

/// Deletes a bake's directory; what is gone already is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
