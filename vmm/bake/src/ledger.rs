//! Which files' digests have been checked since the host booted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::identity::FileIdentity;
use crate::key::Key;
use crate::manifest::Part;
use crate::record;

/// One checked file: these very contents had this digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) part: Part,
    pub(crate) identity: FileIdentity,
}

/// A directory with one record per bake, on a file system that doesn't survive a reboot.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.directory.join(key.to_string())
    }

    /// Whether exactly these files have been checked.
    pub(crate) fn vouches(&self, key: &Key, files: &[Checked]) -> bool {
        record::load::<Vec<Checked>>(&self.path(key)).as_deref() == Some(files)
    }

    /// Remembers that these files were checked, unless their times are too young to tell a later change apart.
    pub(crate) fn record(&self, key: &Key, files: &[Checked]) {
        if !files.iter().all(|file| file.identity.is_settled()) {
            return;
        }
        if let Err(error) = record::save(&self.path(key), &files) {
            tracing::warn!(directory = %self.directory.display(), %error, "checked digests can't be remembered: every start reads the whole bake");
        }
    }

    pub(crate) fn forget(&self, key: &Key) {
        // Gone already is as good.
        let _gone = std::fs::remove_file(self.path(key));
    }
}
