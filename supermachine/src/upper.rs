//! Writable layers: clones of a template disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, SeekFrom, ioctl_ficlone, renameat_with, seek};
use rustix::io::Errno;

/// A writable layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// The template isn't there.
    #[error(
        "cannot open the writable layers' template {}; the snapshotter daemon makes it when it starts \
         (`systemctl status supermachine-snapshotter`)",
        path.display()
    )]
    Template {
        /// The template.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The clone can't be written.
    #[error("cannot make the writable layer {}; is the disk full?", path.display())]
    Clone {
        /// The clone.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes `target` a copy of `template` and returns its size in bytes. On a file system with reflinks that shares all
/// blocks; elsewhere only the parts that hold data are copied, so that a sparse template stays sparse. A file that
/// exists is an error. The file appears complete or not at all; the caller sees to it that one target is made once at a
/// time.
pub fn clone_upper(template: &Path, target: &Path) -> Result<u64, UpperError> {
    let open = || {
        let file = File::open(template)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    };
    let (source, bytes) = open().map_err(|source| UpperError::Template { path: template.to_owned(), source })?;
    let failed = |source| UpperError::Clone { path: target.to_owned(), source };
    let partial = PathBuf::from(format!("{}.partial", target.display()));
    let make = || {
        let mut options = OpenOptions::new();
        // One that is there is of a copy that was killed.
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        if ioctl_ficlone(&file, &source).is_err() {
            copy_sparse(&source, &file, bytes)?;
        }
        Ok(renameat_with(CWD, &partial, CWD, target, RenameFlags::NOREPLACE)?)
    };
    make().map_err(|error| {
        // The first error is the one that counts.
        let _kept = std::fs::remove_file(&partial);
        failed(error)
    })?;
    Ok(bytes)
}

fn copy_sparse(source: &File, target: &File, bytes: u64) -> io::Result<()> {
    target.set_len(bytes)?;
    let mut position = 0;
    while position < bytes {
        let start = match seek(source, SeekFrom::Data(position)) {
            Ok(start) => start,
            // No data up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(source, SeekFrom::Hole(start))?;
        copy_range(source, target, start, end)?;
        position = end;
    }
    Ok(())
}

/// The standard library lets the kernel copy (`copy_file_range`) wherever that can.
fn copy_range(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    source.seek(io::SeekFrom::Start(start))?;
    target.seek(io::SeekFrom::Start(start))?;
    let copied = io::copy(&mut source.take(end - start), &mut target)?;
    if copied == end - start { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn a_sparse_template_stays_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let (template, target) = (dir.path().join("template"), dir.path().join("upper"));
        let file = File::create(&template).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"first", 0).unwrap();
        file.write_all_at(b"middle", (32 << 20) + 17).unwrap();
        assert_eq!(clone_upper(&template, &target).unwrap(), 64 << 20);
        assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(&template).unwrap());
        assert!(std::fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn a_copy_across_file_systems_works_and_never_overwrites() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let (template, target) = (dir.path().join("template"), other.path().join("upper"));
        std::fs::write(&template, vec![3; 10_000]).unwrap();
        let partial = other.path().join("upper.partial");
        std::fs::write(&partial, vec![9; 20_000]).unwrap();
        clone_upper(&template, &target).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), vec![3; 10_000]);
        assert!(matches!(clone_upper(&template, &target), Err(UpperError::Clone { .. })));
        assert_eq!(std::fs::read(&target).unwrap().len(), 10_000);
        assert!(!partial.exists());
    }

    #[test]
    fn a_missing_template_says_who_makes_it() {
        let error = clone_upper(Path::new("/nonexistent/t"), Path::new("/nonexistent/u")).unwrap_err();
        assert!(error.to_string().contains("snapshotter daemon"), "{error}");
    }
}
