//! A directory that lives as long as what it describes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A directory for one VM's logs, removed with everything in it when this is dropped.
#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    /// Held while a file is written: one that comes while they are removed would stay, and the directory with it.
    is_gone: Arc<Mutex<bool>>,
}

/// A small file in such a directory, which others may read at any time.
#[derive(Clone, Debug)]
pub(crate) struct RunFile {
    path: PathBuf,
    is_gone: Arc<Mutex<bool>>,
    is_removed: Arc<AtomicBool>,
}

impl RunDirectory {
    /// Makes the directory, for this user only. One that exists is taken over.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self { path: path.to_owned(), is_gone: Arc::default() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty file in it, readable and append-only.
    pub(crate) fn log(&self, name: &str) -> io::Result<File> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).mode(0o600).open(path)?;
        file.set_len(0)?;
        Ok(file)
    }

    /// A file in it that isn't there yet.
    pub(crate) fn file(&self, name: &str) -> RunFile {
        RunFile { path: self.path.join(name), is_gone: Arc::clone(&self.is_gone), is_removed: Arc::default() }
    }
}

impl RunFile {
    /// Another file beside it that isn't there yet.
    pub(crate) fn beside(&self, name: &str) -> Self {
        let path = self.path.with_file_name(name);
        Self { path, is_gone: Arc::clone(&self.is_gone), is_removed: Arc::default() }
    }

    /// Replaces its contents in one step, or does nothing if it was removed or the directory is gone.
    pub(crate) fn replace(&self, contents: &[u8]) -> io::Result<()> {
        let is_gone = self.is_gone.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_gone || self.is_removed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?.write_all(contents)?;
        std::fs::rename(&temporary, &self.path)
    }

    /// Removes it for good.
    pub(crate) fn remove(&self) {
        let _is_gone = self.is_gone.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_removed.store(true, Ordering::Relaxed);
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a VM's file can't be removed");
            }
            _ => {}
        }
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let mut is_gone = self.is_gone.lock().unwrap_or_else(PoisonError::into_inner);
        *is_gone = true;
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "a VM's directory can't be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_long_as_the_directory_is_there() {
        let parent = tempfile::tempdir().unwrap();
        let directory = RunDirectory::create(&parent.path().join("a/b")).unwrap();
        let file = directory.file("start.json");
        for contents in ["one", "two, which is longer", "3"] {
            file.replace(contents.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(directory.path().join("start.json")).unwrap(), contents);
        }
        let other = file.beside("joined");
        other.replace(b"one").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
        other.remove();
        other.clone().replace(b"late").unwrap();
        other.remove();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(directory);
        file.replace(b"late").unwrap();
        assert!(!parent.path().join("a/b").exists());
    }
}
