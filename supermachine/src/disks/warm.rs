//! The disk of a guest that is restored from a warm bake, which takes the place of the one that was made for it once the
//! guest lives.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bake::Upper;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{Backing, DiskError, open_upper};

/// Where the disk is that may take the place of the one at `path`. One that a start which was killed has left is nobody's.
pub(crate) fn warm_disk(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.warm", path.display()))
}

/// Beside the other; removed unless it takes its place.
#[derive(Debug)]
pub(crate) struct WarmDisk {
    pub(super) backing: Backing,
    path: PathBuf,
    instead_of: PathBuf,
}

impl WarmDisk {
    /// Writes a disk beside the one at `path`.
    pub(crate) fn make(packed: &File, upper: &Upper, path: &Path) -> Result<Self, DiskError> {
        let beside = warm_disk(path);
        let failed = |source| DiskError::Unpack { path: beside.clone(), source };
        // One that is there is of a start that was killed.
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let disk = options.open(&beside).map_err(|source| failed(source.into()))?;
        let made = bake::unpack(packed, upper.disk_bytes, &disk).map_err(failed).and_then(|()| open_upper(&beside));
        match made {
            Ok(backing) => Ok(Self { backing, path: beside, instead_of: path.to_owned() }),
            Err(error) => {
                remove(&beside);
                Err(error)
            }
        }
    }

    /// Puts it in the place of the other, which goes.
    pub(crate) fn keep(self) -> Result<(), DiskError> {
        let Self { path, instead_of, .. } = &self;
        // A file that takes another's name is written out first, by ext4 (`auto_da_alloc`, ext4(5)); two that change theirs
        // are not. File systems without that have the plain way.
        let exchanged = renameat_with(CWD, path, CWD, instead_of, RenameFlags::EXCHANGE).map_err(io::Error::from);
        exchanged.or_else(|_| fs::rename(path, instead_of)).map_err(|source| DiskError::Open {
            role: "writable layer",
            path: instead_of.clone(),
            source,
        })
    }
}

impl Drop for WarmDisk {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// If it has taken the other's place, that one is there, or nothing.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a writable layer is left behind");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use bake::{Digest, Part};

    use super::*;

    #[test]
    fn it_takes_the_others_place_or_nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper");
        fs::write(&path, [1; 4096]).unwrap();
        let packed = tempfile::tempfile().unwrap();
        packed.write_all_at(&[&1u64.to_le_bytes()[..], &1u64.to_le_bytes(), &[7; 4096]].concat(), 0).unwrap();
        let upper = Upper { disk_bytes: 8192, part: Part { bytes: 4112, digest: Digest([0; 32]) } };
        fs::write(dir.path().join("upper.warm"), "left by one that was killed").unwrap();
        drop(WarmDisk::make(&packed, &upper, &path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), [1; 4096]);
        WarmDisk::make(&packed, &upper, &path).unwrap().keep().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [[0; 4096], [7; 4096]].concat());
        let small = Upper { disk_bytes: 4096, ..upper };
        assert!(matches!(WarmDisk::make(&packed, &small, &path), Err(DiskError::Unpack { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
