//! What is written down of a start, for those who ask later: `start.json` in the VM's directory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bake::Key;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::run_directory::RunFile;
use crate::trace::{Phase, Trace};
use crate::vm::Mode;

/// Name of the record in a VM's directory.
pub(crate) const FILE: &str = "start.json";
/// How the names of records begin that are of containers which joined the VM; their ids follow.
const JOINED: &str = "joined-";
/// Version of the record's format.
pub(crate) const VERSION: u32 = 1;
/// Largest record that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// How a VM was started, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartRecord {
    /// Version of the format: 1.
    pub version: u32,
    /// containerd namespace of the container that it was started for; empty without containerd.
    pub namespace: String,
    /// The container, or what else the VM is called.
    pub id: String,
    /// Whether the container joined the VM, which ran already: the phases are then those of joining it.
    pub joined: bool,
    /// How the VM came to run.
    #[serde(flatten)]
    pub mode: Mode,
    /// Why it is that mode, for people.
    pub reason: String,
    /// The bake that it was restored from.
    pub bake: Option<Key>,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Process id of the VMM.
    pub pid: i32,
    /// When the start began, in microseconds since 1970.
    pub began_unix_us: u64,
    /// Version of the agent.
    pub agent_version: String,
    /// Release of the guest's kernel.
    pub kernel_release: String,
    /// Where the time went, without gaps.
    pub phases: Vec<Phase>,
}

/// A record can't be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It isn't there, or can't be opened.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone else has written it.
    #[error("{} belongs to user {owner}, who is neither root nor this user; remove it", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// It is larger than any that we write.
    #[error("{} has more than {max_bytes} bytes; nothing of ours writes such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How many it may have.
        max_bytes: u64,
    },
    /// It is of another version of this program.
    #[error(
        "{} has version {found} and this program reads version {VERSION}; use the program that was installed with the \
         shim that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is no record.
    #[error("{} is not the record of a start", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It doesn't name a bake.
    #[error("{} doesn't say which bake is wanted", path.display())]
    Message {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<protobuf::Error>,
    },
}

/// The part of a record that every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl StartRecord {
    /// Reads the record in a VM's directory. It is taken from root and this user only, and parsed as untrusted.
    pub fn read(directory: &Path) -> Result<Self, RecordError> {
        Self::read_file(directory.join(FILE))
    }

    /// Reads the records of the containers that have joined the VM, in the same way.
    pub fn read_joined(directory: &Path) -> Vec<Result<Self, RecordError>> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let is_record = |name: &str| name.starts_with(JOINED) && name.ends_with(".json");
        let joined = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_record));
        joined.map(|entry| Self::read_file(entry.path())).collect()
    }

    fn read_file(path: PathBuf) -> Result<Self, RecordError> {
        let bytes = read(&path, MAX_BYTES)?;
        let syntax = |source| RecordError::Syntax { path: path.clone(), source };
        let Versioned { version: found } = serde_json::from_slice(&bytes).map_err(syntax)?;
        if found != VERSION {
            return Err(RecordError::Version { path, found });
        }
        serde_json::from_slice(&bytes).map_err(syntax)
    }

    /// How long all phases took, in microseconds.
    pub fn took_us(&self) -> u64 {
        self.phases.iter().map(|phase| phase.took_us).fold(0, u64::saturating_add)
    }
}

/// A small file of a VM's directory, of root's or this user's.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, RecordError> {
    let path = path.to_owned();
    let failed = |source| RecordError::Read { path: path.clone(), source };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(&path).map_err(failed)?;
    let owner = file.metadata().map_err(failed)?.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(RecordError::Foreign { path, owner });
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(RecordError::TooLarge { path, max_bytes });
    }
    Ok(bytes)
}

/// Writes the record of a running VM's start. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Recorder {
    known: Arc<StartRecord>,
    trace: Trace,
    file: RunFile,
}

impl Recorder {
    pub(crate) fn new(known: StartRecord, trace: Trace, file: RunFile) -> Self {
        Self { known: Arc::new(known), trace, file }
    }

    /// What was known when the start began, without its phases.
    pub fn start(&self) -> &StartRecord {
        &self.known
    }

    /// The recorder of a container that joins the VM.
    #[must_use]
    pub fn joined(&self, id: &str, trace: Trace) -> Self {
        let began_unix_us = trace.began_unix_us();
        let known = StartRecord { id: id.to_owned(), joined: true, began_unix_us, ..(*self.known).clone() };
        Self { known: Arc::new(known), trace, file: self.beside(&format!("{JOINED}{id}.json")) }
    }

    /// Another file of the VM's directory.
    pub(crate) fn beside(&self, name: &str) -> RunFile {
        self.file.beside(name)
    }

    /// Forgets a container that has left the VM.
    pub fn remove(&self) {
        self.file.remove();
    }

    /// Writes the record with the phases that have ended by now, in place of the one before; nothing if the VM is gone.
    /// It takes some tens of microseconds, which a start needn't wait for.
    pub fn write(&self) -> io::Result<()> {
        let record = StartRecord { phases: self.trace.phases(), ..(*self.known).clone() };
        self.file.replace(&serde_json::to_vec(&record)?)
    }
}

#[cfg(test)]
mod tests {
    use bake::Level;

    use super::*;
    use crate::run_directory::RunDirectory;
    use crate::trace::Owner;

    fn record() -> StartRecord {
        StartRecord {
            version: VERSION,
            namespace: "default".into(),
            id: "c1".into(),
            joined: false,
            mode: Mode::Restored(Level::Base),
            reason: "bake".into(),
            bake: Some("ab".repeat(32).parse().unwrap()),
            memory_bytes: 256 << 20,
            vcpus: 1,
            pid: 7,
            began_unix_us: 9,
            agent_version: "0.1.0".into(),
            kernel_release: "6.12".into(),
            phases: Vec::new(),
        }
    }

    #[test]
    fn what_was_written_reads_back_with_the_phases_of_the_moment() {
        let parent = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(&parent.path().join("vm")).unwrap();
        let trace = Trace::begin();
        let recorder = Recorder::new(record(), trace.clone(), directory.file(FILE));
        for count in 1..3 {
            trace.end("running", Owner::Vmm);
            recorder.write().unwrap();
            let read = StartRecord::read(directory.path()).unwrap();
            assert_eq!(read.phases.len(), count);
            assert_eq!(read, StartRecord { phases: read.phases.clone(), ..record() });
        }
    }

    #[test]
    fn a_container_that_joined_has_a_record_as_long_as_it_is_there() {
        let parent = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(&parent.path().join("vm")).unwrap();
        let first = Recorder::new(record(), Trace::begin(), directory.file(FILE));
        let joined = first.joined("c2", Trace::begin());
        first.write().unwrap();
        joined.write().unwrap();
        let read = StartRecord::read_joined(directory.path()).pop().unwrap().unwrap();
        assert_eq!((read.id.as_str(), read.joined, read.pid), ("c2", true, 7));
        joined.remove();
        assert!(StartRecord::read_joined(directory.path()).is_empty());
        assert!(!StartRecord::read(directory.path()).unwrap().joined);
    }

    #[test]
    fn the_mode_is_two_plain_fields() {
        let restored = serde_json::to_value(record()).unwrap();
        assert_eq!((&restored["mode"], &restored["level"]), (&"restored".into(), &"base".into()));
        let cold = serde_json::to_value(StartRecord { mode: Mode::Cold, ..record() }).unwrap();
        assert_eq!((&cold["mode"], cold.get("level")), (&"cold".into(), None));
        assert_eq!(serde_json::from_value::<StartRecord>(cold).unwrap().mode, Mode::Cold);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |contents: &[u8]| {
            std::fs::write(dir.path().join(FILE), contents).unwrap();
            StartRecord::read(dir.path()).unwrap_err()
        };
        assert!(matches!(refused(b"{\"version\": 2}"), RecordError::Version { found: 2, .. }));
        assert!(matches!(refused(b"{\"version\": 1}"), RecordError::Syntax { .. }));
        assert!(matches!(refused(b"\xff"), RecordError::Syntax { .. }));
        assert!(matches!(refused(&vec![b' '; 65 * 1024]), RecordError::TooLarge { .. }));
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        assert!(matches!(StartRecord::read(dir.path()), Err(RecordError::Read { .. })));
        std::os::unix::fs::symlink("/proc/self/status", dir.path().join(FILE)).unwrap();
        assert!(matches!(StartRecord::read(dir.path()), Err(RecordError::Read { .. })), "a link is not followed");
    }
}
