//! Digests of layers, remembered until the host reboots.

use std::fs;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::identity::FileIdentity;
use crate::memo::{DigestError, Remembered};
use crate::record;

/// A directory with a record for each layer file that was read, on a file system that doesn't survive a reboot. However
/// many images there are, a start reads the records of its own layers alone.
#[derive(Clone, Debug)]
pub struct LayerDigests {
    directory: PathBuf,
}

impl LayerDigests {
    /// Those in `directory`, which is made when there is something to remember.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The digest of a file if it is remembered and the file hasn't changed.
    pub fn recall(&self, path: &Path) -> Option<Digest> {
        let identity = FileIdentity::from(&fs::metadata(path).ok()?);
        let remembered: Remembered = record::load(&self.record(&identity))?;
        (remembered.identity == identity).then_some(remembered.digest)
    }

    /// The digest of a file, read if need be, which may take seconds.
    pub fn digest(&self, path: &Path) -> Result<Digest, DigestError> {
        if let Some(digest) = self.recall(path) {
            return Ok(digest);
        }
        let (digest, remembered) = Remembered::read(path)?;
        let save = |remembered: Remembered| record::save(&self.record(&remembered.identity), &remembered);
        if let Some(Err(error)) = remembered.map(save) {
            tracing::warn!(directory = %self.directory.display(), %error, "digests of layers can't be remembered: no image's bake is found");
        }
        Ok(digest)
    }

    /// Forgets files that are gone or have changed.
    pub fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_good = record::load::<Remembered>(&path).is_some_and(|remembered| {
                let metadata = fs::metadata(&remembered.path);
                metadata.is_ok_and(|metadata| FileIdentity::from(&metadata) == remembered.identity)
            });
            if !is_good {
                // Somebody else may sweep as well.
                let _gone = fs::remove_file(&path);
            }
        }
    }

    fn record(&self, identity: &FileIdentity) -> PathBuf {
        self.directory.join(identity.name())
    }
}

#[cfg(test)]
mod tests {
    use std::thread::sleep;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_layer_is_known_once_it_was_read_and_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        fs::write(&layer, "one").unwrap();
        sleep(Duration::from_millis(30));
        let digests = LayerDigests::new(dir.path().join("run/layers"));
        assert_eq!(digests.recall(&layer), None);
        assert_eq!(digests.digest(&layer).unwrap(), Digest::of(b"one"));
        assert_eq!(digests.recall(&layer), Some(Digest::of(b"one")));
        fs::write(&layer, "two").unwrap();
        assert_eq!(digests.recall(&layer), None);
        assert_eq!(digests.digest(&layer).unwrap(), Digest::of(b"two"));
        assert_eq!(digests.recall(&layer), None, "it has only just changed");
    }

    #[test]
    fn what_is_gone_is_swept_away() {
        let dir = tempfile::tempdir().unwrap();
        let [kept, gone] = ["kept", "gone"].map(|name| dir.path().join(name));
        fs::write(&kept, "one").unwrap();
        fs::write(&gone, "two").unwrap();
        sleep(Duration::from_millis(30));
        let digests = LayerDigests::new(dir.path().join("layers"));
        digests.digest(&kept).unwrap();
        digests.digest(&gone).unwrap();
        fs::write(dir.path().join("layers/odd"), "").unwrap();
        fs::remove_file(&gone).unwrap();
        digests.sweep();
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 1);
        assert!(digests.recall(&kept).is_some());
    }

    #[test]
    fn a_missing_layer_is_named() {
        let digests = LayerDigests::new(PathBuf::from("/nonexistent"));
        let error = digests.digest(Path::new("/nonexistent/layer")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/layer"));
    }
}
