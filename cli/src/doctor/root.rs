//! The file system that is looked at: the host's, or one of a test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where programs are looked for by services that are told nothing else.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A root directory.
#[derive(Clone, Debug)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where an absolute path of it is.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A text file; empty if there is none.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> String {
        fs::read(self.at(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether a file can be executed by somebody.
    pub(crate) fn is_program(&self, path: impl AsRef<Path>) -> bool {
        let metadata = fs::metadata(self.at(path));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    }

    /// The first program of that name in a list of directories.
    pub(crate) fn program_in(&self, directories: &str, name: &str) -> Option<PathBuf> {
        // Only absolute ones: a service has no directory that matters.
        let directories = directories.split(':').filter(|directory| directory.starts_with('/'));
        directories.map(|directory| Path::new(directory).join(name)).find(|path| self.is_program(path))
    }

    /// Process ids of the programs of that name, as far as the kernel keeps it.
    pub(crate) fn processes(&self, name: &str) -> Vec<u32> {
        let expected: String = name.chars().take(15).collect();
        let entries = fs::read_dir(self.at("/proc")).into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| self.read(format!("/proc/{pid}/comm")).trim_end() == expected).collect()
    }
}

/// A root directory with files in it; a name that ends in `*` is of a program.
#[cfg(test)]
pub(crate) fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::new(directory.path());
    for (name, contents) in files {
        let path = root.at(name.trim_end_matches('*'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        let mode = if name.ends_with('*') { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    (directory, root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_processes_are_found_below_it() {
        let (_directory, root) = fake(&[
            ("/usr/bin/tool*", ""),
            ("/bin/tool", "no program"),
            ("/proc/7/comm", "supermachine-sn\n"),
            ("/proc/8/comm", "bash\n"),
        ]);
        assert_eq!(root.program_in("relative:/bin:/usr/bin", "tool"), Some("/usr/bin/tool".into()));
        assert_eq!(root.program_in(DEFAULT_PATH, "other"), None);
        assert_eq!(root.processes("supermachine-snapshotter"), [7]);
        assert_eq!(root.read("/none"), "");
    }
}
