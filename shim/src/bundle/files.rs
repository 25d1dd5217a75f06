//! Host files small enough to be carried into the guest by content.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What all carried files of a container may hold together.
pub(crate) const LIMIT_BYTES: u64 = 1 << 20;

/// What is left of the limit.
#[derive(Debug)]
pub(crate) struct Allowance(u64);

impl Default for Allowance {
    fn default() -> Self {
        Self(LIMIT_BYTES)
    }
}

impl Allowance {
    /// Reads a file if it is a regular one that fits. None if it isn't.
    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Option<(Vec<u8>, u32)>> {
        // Asked before opening: opening a device or a FIFO has effects.
        let metadata = path.metadata()?;
        if !metadata.is_file() || metadata.len() > self.0 {
            return Ok(None);
        }
        let mut content = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        File::open(path)?.take(self.0 + 1).read_to_end(&mut content)?;
        let Some(left) = self.0.checked_sub(content.len() as u64) else { return Ok(None) };
        self.0 = left;
        Ok(Some((content, metadata.permissions().mode() & 0o7777)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_until_the_allowance_is_spent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![7; 600 << 10]).unwrap();
        let mut allowance = Allowance::default();
        let (content, mode) = allowance.read(&path).unwrap().unwrap();
        assert_eq!((content.len(), mode & 0o400), (600 << 10, 0o400));
        assert!(allowance.read(&path).unwrap().is_none());
        assert!(allowance.read(dir.path()).unwrap().is_none());
        assert!(allowance.read(&dir.path().join("missing")).is_err());
    }
}
