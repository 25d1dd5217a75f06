//! Small files that remember something until the next reboot. Losing one costs time and nothing else.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::trust::distrust;

/// Largest record, in bytes.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// Reads a record. None if there is none, if it doesn't decode, or if anyone else could have written it.
pub fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if distrust(path, &metadata).is_some() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes).ok()?;
    postcard::from_bytes(&bytes).ok()
}

/// Replaces a record in one step. Parent directories are made, for this user only. Readers see the old record or the
/// new one; after a crash possibly none.
pub fn save<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_error| drop(std::fs::remove_file(&temporary)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_record_reads_back_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/record");
        assert_eq!(load::<u32>(&path), None);
        save(&path, &7u32).unwrap();
        save(&path, &8u32).unwrap();
        assert_eq!(load::<u32>(&path), Some(8));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_record_that_others_can_write_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        save(&path, &7u32).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(load::<u32>(&path), None);
    }
}
