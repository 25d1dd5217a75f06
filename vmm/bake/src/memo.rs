//! Digests of files that rarely change, remembered by the files' identity.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::identity::FileIdentity;
use crate::record;

/// Most files remembered; the oldest give way.
const MAX_ENTRIES: usize = 32;

/// A file's digest, good as long as the file is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) path: PathBuf,
    pub(crate) identity: FileIdentity,
    pub(crate) digest: Digest,
}

impl Remembered {
    /// Reads a file for its digest, which is to be remembered if the file stood still meanwhile and a later change can be
    /// told.
    pub(crate) fn read(path: &Path) -> Result<(Digest, Option<Self>), DigestError> {
        let read = || {
            let file = File::open(path)?;
            let before = FileIdentity::from(&file.metadata()?);
            let digest = Digest::of_file(&file)?;
            let is_certain = before == FileIdentity::from(&file.metadata()?) && before.is_settled();
            Ok((digest, is_certain.then(|| Self { path: path.to_owned(), identity: before, digest })))
        };
        read().map_err(|source| DigestError { path: path.to_owned(), source })
    }
}

/// A file can't be digested.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct DigestError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Digests by path, each good as long as the file's [`FileIdentity`] stands. One stat per file when it does.
#[derive(Debug)]
pub struct DigestMemo {
    file: PathBuf,
    entries: Vec<Remembered>,
    changed: bool,
}

impl DigestMemo {
    /// Reads what is remembered in `file`; nothing if there is no such file.
    pub fn load(file: PathBuf) -> Self {
        let entries = record::load(&file).unwrap_or_default();
        Self { file, entries, changed: false }
    }

    /// The digest of a file if it is remembered and the file hasn't changed.
    pub fn recall(&self, path: &Path) -> Result<Option<Digest>, DigestError> {
        let metadata = std::fs::metadata(path).map_err(|source| DigestError { path: path.to_owned(), source })?;
        let identity = FileIdentity::from(&metadata);
        let entry = self.entries.iter().find(|entry| entry.path == path && entry.identity == identity);
        Ok(entry.map(|entry| entry.digest))
    }

    /// The digest of a file, read if need be.
    pub fn digest(&mut self, path: &Path) -> Result<Digest, DigestError> {
        if let Some(digest) = self.recall(path)? {
            return Ok(digest);
        }
        let (digest, remembered) = Remembered::read(path)?;
        if let Some(remembered) = remembered {
            self.entries.retain(|entry| entry.path != path);
            self.entries.push(remembered);
            let surplus = self.entries.len().saturating_sub(MAX_ENTRIES);
            self.entries.drain(..surplus);
            self.changed = true;
        }
        Ok(digest)
    }

    /// Writes down what was learnt. Failing costs the next start time and nothing else.
    pub fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        if let Err(error) = record::save(&self.file, &self.entries) {
            tracing::warn!(file = %self.file.display(), %error, "digests can't be remembered: every start reads the files again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_digest_is_remembered_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (file, memo) = (dir.path().join("kernel"), dir.path().join("digests"));
        std::fs::write(&file, "one").unwrap();
        // The file's times have to tell the two contents apart.
        sleep(Duration::from_millis(30));
        let mut first = DigestMemo::load(memo.clone());
        assert_eq!(first.recall(&file).unwrap(), None);
        assert_eq!(first.digest(&file).unwrap(), Digest::of(b"one"));
        first.save();
        assert_eq!(DigestMemo::load(memo.clone()).recall(&file).unwrap(), Some(Digest::of(b"one")));
        std::fs::write(&file, "two").unwrap();
        let mut second = DigestMemo::load(memo);
        assert_eq!(second.recall(&file).unwrap(), None);
        assert_eq!(second.digest(&file).unwrap(), Digest::of(b"two"));
    }

    #[test]
    fn a_file_that_has_just_changed_is_not_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kernel");
        let mut memo = DigestMemo::load(dir.path().join("digests"));
        std::fs::write(&file, "one").unwrap();
        memo.digest(&file).unwrap();
        assert_eq!(memo.recall(&file).unwrap(), None);
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut memo = DigestMemo::load(PathBuf::from("/nonexistent/digests"));
        let error = memo.digest(Path::new("/nonexistent/vmlinux")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/vmlinux"));
    }
}
