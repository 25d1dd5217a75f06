//! A bake in the making.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::extents::{Extent, Extents, ExtentsError};
use crate::identity::FileIdentity;
use crate::key::Key;
use crate::ledger::Checked;
use crate::manifest::{Manifest, ManifestError, Part, Upper};
use crate::store::{MANIFEST, MEMORY, STATE, Store, StoreError, UPPER, remove_tree, unique};
use crate::subject::Subject;
use crate::upper::pack;
use crate::written::{Run, Written, WrittenError};

/// What the names of unfinished bakes begin with.
const PREFIX: &str = ".draft";

/// An unfinished bake: a directory under a temporary name, with two empty files to be written. Dropping it removes
/// the directory.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    path: PathBuf,
    /// Locked as long as somebody works on it.
    directory: File,
    /// Receives the device and CPU state.
    pub state: File,
    /// Receives the packed pages.
    pub memory: File,
    /// The packed disk with the disk's size in bytes, if there is one.
    upper: Option<(File, u64)>,
    /// Until the agent answers, and later.
    written: [Vec<Run>; 2],
    is_published: bool,
}

/// What came of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The bake is in the store.
    New(Key),
    /// Someone else published an equal one first; this one was dropped.
    AlreadyThere(Key),
}

impl Published {
    /// The bake's key.
    pub fn key(self) -> Key {
        match self {
            Self::New(key) | Self::AlreadyThere(key) => key,
        }
    }
}

/// A bake could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// What was captured can't be a bake.
    #[error("the captured memory is unusable")]
    Extents(#[source] ExtentsError),
    /// What it writes to can't be part of a bake.
    #[error("the pages that the guest writes to are unusable")]
    Written(#[source] WrittenError),
    /// The manifest can't be written down.
    #[error("the manifest can't be encoded")]
    Manifest(#[source] ManifestError),
    /// A file operation failed.
    #[error("the bake can't be written to the store")]
    Store(#[source] StoreError),
}

pub(crate) fn begin(store: &Store) -> Result<Draft, StoreError> {
    let root = store.directory();
    DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|source| store.error("create", root, source))?;
    sweep(root);
    let path = root.join(unique(PREFIX));
    DirBuilder::new().mode(0o700).create(&path).map_err(|source| store.error("create", &path, source))?;
    let open = || -> io::Result<Draft> {
        let directory = File::open(&path)?;
        flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
        let (state, memory) = (create(&path.join(STATE))?, create(&path.join(MEMORY))?);
        let store = store.clone();
        Ok(Draft {
            store,
            path: path.clone(),
            directory,
            state,
            memory,
            upper: None,
            written: Default::default(),
            is_published: false,
        })
    };
    open().map_err(|source| {
        // The first error is the one that counts.
        let _kept = remove_tree(&path);
        store.error("create files in", &path, source)
    })
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Removes what crashed processes left behind: directories under temporary names that nobody has locked.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with(PREFIX) && !name.starts_with(".removed") {
            continue;
        }
        let is_abandoned = File::open(entry.path())
            .is_ok_and(|directory| flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_abandoned && let Err(error) = remove_tree(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an abandoned bake can't be removed");
        }
    }
}

impl Draft {
    /// A name that no other living draft has.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().trim_start_matches('.').to_owned()
    }

    /// A path for a file that goes with the draft, or before it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Keeps what is on the disk of a guest that runs no more.
    pub fn keep_disk(&mut self, disk: &File) -> Result<(), StoreError> {
        let path = self.path.join(UPPER);
        let keep = || {
            let file = create(&path)?;
            pack(disk, io::BufWriter::new(&file))?;
            Ok((file, disk.metadata()?.len()))
        };
        self.upper = Some(keep().map_err(|source| self.store.error("write", &path, source))?);
        Ok(())
    }

    /// Notes what a guest writes to whenever it is restored: until its agent answers, and later.
    pub fn foresee(&mut self, written: Vec<Run>, later: Vec<Run>) {
        self.written = [written, later];
    }

    /// Completes the bake under the subject's key: digests, manifest, permissions, everything on the disk, then the name.
    /// If it lies `over` another bake, that one's memory file has this digest.
    pub fn publish(
        mut self,
        subject: Subject,
        over: Option<Digest>,
        extents: Vec<Extent>,
    ) -> Result<Published, PublishError> {
        let key = subject.key();
        let state = self.part(&self.state, STATE)?;
        let memory = self.part(&self.memory, MEMORY)?;
        let upper = match &self.upper {
            Some((file, disk_bytes)) => Some(Upper { disk_bytes: *disk_bytes, part: self.part(file, UPPER)? }),
            None => None,
        };
        let memory_bytes = subject.facts.memory_bytes;
        let extents = Extents::check(extents, memory_bytes, memory.bytes).map_err(PublishError::Extents)?;
        let [written, written_later] = std::mem::take(&mut self.written)
            .map(|runs| Written::check(runs, memory_bytes).map_err(PublishError::Written));
        let (written, written_later) = (written?, written_later?);
        let manifest = Manifest { subject, over, state, memory, extents, written, written_later, upper };
        let bytes = manifest.encode().map_err(PublishError::Manifest)?;
        self.write_manifest(&bytes).map_err(|source| self.failed("write the files of", source))?;
        let target = self.store.directory().join(key.to_string());
        match renameat_with(CWD, &self.path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => self.is_published = true,
            Err(Errno::EXIST | Errno::NOTEMPTY) => return Ok(Published::AlreadyThere(key)),
            Err(error) => return Err(self.failed("rename", error.into())),
        }
        File::open(self.store.directory())
            .and_then(|directory| directory.sync_all())
            .map_err(|source| self.failed("sync the directory of", source))?;
        self.record(&key, [Some(state), Some(memory), upper.map(|upper| upper.part)]);
        Ok(Published::New(key))
    }

    fn part(&self, file: &File, name: &str) -> Result<Part, PublishError> {
        let measure = || {
            file.set_permissions(Permissions::from_mode(0o400))?;
            file.sync_all()?;
            Ok(Part { bytes: file.metadata()?.len(), digest: Digest::of_file(file)? })
        };
        measure().map_err(|source| PublishError::Store(self.store.error("complete", &self.path.join(name), source)))
    }

    fn write_manifest(&self, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o400).open(self.path.join(MANIFEST))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.directory.sync_all()
    }

    /// The digests were just computed from these files: the first restore needn't do it again.
    fn record(&self, key: &Key, parts: [Option<Part>; 3]) {
        let files = [Some(&self.state), Some(&self.memory), self.upper.as_ref().map(|(file, _)| file)];
        let checked = |(file, part): (Option<&File>, Option<Part>)| {
            let (file, part) = (file?, part?);
            Some(file.metadata().map(|metadata| Checked { part, identity: FileIdentity::from(&metadata) }))
        };
        let checked: io::Result<Vec<_>> = files.into_iter().zip(parts).filter_map(checked).collect();
        if let Ok(checked) = checked {
            self.store.ledger().record(key, &checked);
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> PublishError {
        PublishError::Store(self.store.error(action, &self.path, source))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished bake can't be removed");
        }
    }
}
