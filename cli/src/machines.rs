//! Machines that run, by the records in their directories.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use supermachine::{Key, RecordError, StartRecord};

/// Characters of a program's name that the kernel keeps.
const COMM_CHARS: usize = 15;

/// What was found of the machines.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that run, the youngest first.
    pub(crate) running: Vec<StartRecord>,
    /// Records of containers that have joined one of them.
    pub(crate) joined: Vec<StartRecord>,
    /// Records that can't be read.
    pub(crate) unreadable: Vec<RecordError>,
}

/// The machines can't be listed.
#[derive(Debug, thiserror::Error)]
#[error("cannot list the directory of running machines {}; check its permissions", path.display())]
pub(crate) struct MachinesError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// No one machine is meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    /// There is none.
    #[error("no machine called `{name}` runs, and none has such a container; `supermachine ls` lists those that do")]
    None { name: String },
    /// There are several.
    #[error("`{name}` may mean several machines; write one of {candidates}")]
    Several { name: String, candidates: String },
}

/// Finds the machines whose directories are in `directory`. One counts as running if its process runs `program`; the
/// directory of one whose shim was killed may be left.
pub(crate) fn find(directory: &Path, proc: &Path, program: &str) -> Result<Found, MachinesError> {
    let failed = |source| MachinesError { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::default()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Found::default();
    for entry in entries {
        let directory = entry.map_err(failed)?.path();
        match StartRecord::read(&directory) {
            Ok(record) if runs(proc, record.pid, program) => {
                // One that can't be read has left, or is about to; one of another VMM was left by a shim that was killed.
                let joined = StartRecord::read_joined(&directory).into_iter().flatten();
                found.joined.extend(joined.filter(|joined| joined.pid == record.pid));
                found.running.push(record);
            }
            // A machine that is about to be started, or has just ended.
            Err(RecordError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => found.unreadable.push(error),
            Ok(_) => {}
        }
    }
    found.running.sort_by_key(|record| std::cmp::Reverse(record.began_unix_us));
    Ok(found)
}

fn runs(proc: &Path, pid: i32, program: &str) -> bool {
    let name = fs::read_to_string(proc.join(pid.to_string()).join("comm")).unwrap_or_default();
    let expected: String = program.chars().take(COMM_CHARS).collect();
    name.trim_end() == expected
}

impl Found {
    /// The one machine or container in one that is called so: by its whole name, else by the beginning of its id.
    pub(crate) fn named(&self, text: &str) -> Result<&StartRecord, FindError> {
        let is_it = |record: &&StartRecord| record.id == text || name(record) == text;
        let all = || self.running.iter().chain(&self.joined);
        let exact: Vec<_> = all().filter(is_it).collect();
        let begins = |record: &&StartRecord| !text.is_empty() && record.id.starts_with(text);
        let found = if exact.is_empty() { all().filter(begins).collect() } else { exact };
        match found.as_slice() {
            [] => Err(FindError::None { name: text.to_owned() }),
            [record] => Ok(record),
            several => {
                let names: Vec<_> = several.iter().map(|record| name(record)).collect();
                Err(FindError::Several { name: text.to_owned(), candidates: names.join(", ") })
            }
        }
    }

    /// Names of the machines that were restored from a bake.
    pub(crate) fn restored_from(&self, key: Key) -> Vec<String> {
        self.running.iter().filter(|record| record.bake == Some(key)).map(name).collect()
    }
}

/// NAMESPACE/ID.
pub(crate) fn name(record: &StartRecord) -> String {
    if record.namespace.is_empty() { record.id.clone() } else { format!("{}/{}", record.namespace, record.id) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Fixture, record};

    #[test]
    fn machines_are_those_whose_process_runs() {
        let fixture = Fixture::new();
        let proc = tempfile::tempdir().unwrap();
        for (pid, comm) in [(10, "supermachine-vm\n"), (11, "bash\n")] {
            fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            fs::write(proc.path().join(pid.to_string()).join("comm"), comm).unwrap();
            fixture.add_machine(&StartRecord { pid, ..record(&format!("c{pid}")) });
        }
        fixture.add_machine(&StartRecord { pid: 12, ..record("c12") });
        let directory = fixture.host().config.paths.sandboxes();
        let joined = StartRecord { joined: true, pid: 10, ..record("c10-2") };
        let file = fixture.config().paths.sandbox("default", "c10").join("joined-c10-2.json");
        fs::write(file, serde_json::to_vec(&joined).unwrap()).unwrap();
        fs::create_dir(directory.join("starting")).unwrap();
        fs::create_dir(directory.join("other-version")).unwrap();
        fs::write(directory.join("other-version/start.json"), "{\"version\": 7}").unwrap();
        let found = find(&directory, proc.path(), "supermachine-vmm").unwrap();
        assert_eq!(found.running, [StartRecord { pid: 10, ..record("c10") }]);
        assert_eq!(found.joined, [joined]);
        assert_eq!(found.named("c10-2").unwrap().id, "c10-2");
        assert!(matches!(found.unreadable.as_slice(), [RecordError::Version { found: 7, .. }]));
        assert!(find(Path::new("/nonexistent"), proc.path(), "x").unwrap().running.is_empty());
    }

    #[test]
    fn a_machine_is_named_by_id_namespace_or_beginning() {
        let other = StartRecord { namespace: "k8s.io".into(), ..record("web") };
        let found = Found { running: vec![record("web"), record("web2"), other], ..Found::default() };
        assert_eq!(name(found.named("k8s.io/web").unwrap()), "k8s.io/web");
        assert_eq!(name(found.named("web2").unwrap()), "default/web2");
        let several = found.named("web").unwrap_err().to_string();
        assert_eq!(several, "`web` may mean several machines; write one of default/web, k8s.io/web");
        assert!(matches!(found.named("we"), Err(FindError::Several { .. })));
        for text in ["", "db", "default/we"] {
            assert!(matches!(found.named(text), Err(FindError::None { .. })), "{text}");
        }
    }
}
