//! An archive of the host's, into an empty directory.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use tar::EntryType;

use super::content::{Stopped, decode_map, read_run};
use super::header::{Entry, Moment};
use super::{ArchiveError, BLOCK, attributes};

/// Makes in `target`, which exists and is empty, what the archive holds. `target` itself becomes what the archive says
/// of `./`.
pub(crate) fn unpack(mut input: impl Read, target: &Path) -> Result<(), ArchiveError> {
    // Times of directories change with what is put into them.
    let mut directories = Vec::new();
    while let Some(entry) = Entry::decode(&mut input)? {
        let path = place(target, &entry.name)?;
        make(&mut input, &entry, target, &path)?;
        match entry.kind {
            // One file under another name: it has everything already.
            EntryType::Link => {}
            EntryType::Directory => {
                describe(&entry, &path)?;
                directories.push((path, entry.modified));
            }
            _ => {
                describe(&entry, &path)?;
                set_time(&path, entry.modified)?;
            }
        }
    }
    // Whoever writes the archive fills it up with blocks that would otherwise have no reader.
    io::copy(&mut input, &mut io::sink()).map_err(ArchiveError::Read)?;
    directories.iter().rev().try_for_each(|(path, modified)| set_time(path, *modified))
}

/// Where an entry belongs; never outside.
fn place(target: &Path, name: &[u8]) -> Result<PathBuf, ArchiveError> {
    let name = Path::new(OsStr::from_bytes(name));
    let mut path = target.to_owned();
    for part in name.components() {
        match part {
            std::path::Component::Normal(part) => path.push(part),
            std::path::Component::CurDir => {}
            _ => return Err(ArchiveError::Damaged("a name that leads outside")),
        }
    }
    Ok(path)
}

fn make(input: &mut impl Read, entry: &Entry, target: &Path, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::File { action: "make", path: path.to_owned(), source };
    let node = |kind| {
        let device = makedev(entry.device.0, entry.device.1);
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device).map_err(|error| failed(error.into()))
    };
    match entry.kind {
        EntryType::Directory if path == target => Ok(()),
        EntryType::Directory => fs::create_dir(path).map_err(failed),
        EntryType::Regular | EntryType::Continuous => {
            let file = File::create_new(path).map_err(failed)?;
            write(input, entry, &file, path)
        }
        EntryType::Symlink => symlink(OsStr::from_bytes(&entry.target), path).map_err(failed),
        EntryType::Link => fs::hard_link(place(target, &entry.target)?, path).map_err(failed),
        EntryType::Char => node(FileType::CharacterDevice),
        EntryType::Block => node(FileType::BlockDevice),
        EntryType::Fifo => node(FileType::Fifo),
        _ => Err(ArchiveError::Damaged("an entry of an unknown kind")),
    }
}

fn write(input: &mut impl Read, entry: &Entry, file: &File, path: &Path) -> Result<(), ArchiveError> {
    let failed = |source| ArchiveError::File { action: "write", path: path.to_owned(), source };
    let mut data = input.take(entry.length.next_multiple_of(BLOCK as u64));
    let runs = match entry.sparse {
        Some(_) => decode_map(&mut data)?,
        None => vec![(0, entry.length)],
    };
    file.set_len(entry.sparse.unwrap_or(entry.length)).map_err(failed)?;
    for run in runs {
        read_run(&mut data, run, file).map_err(|stopped| match stopped {
            Stopped::Reading(error) => ArchiveError::Read(error),
            Stopped::Writing(source) => failed(source),
        })?;
    }
    io::copy(&mut data, &mut io::sink()).map(drop).map_err(ArchiveError::Read)
}

/// Owner, mode, attributes: in this order, since a new owner clears bits of the mode, and capabilities.
fn describe(entry: &Entry, path: &Path) -> Result<(), ArchiveError> {
    let describe = || {
        lchown(path, Some(entry.uid), Some(entry.gid))?;
        if entry.kind != EntryType::Symlink {
            fs::set_permissions(path, Permissions::from_mode(entry.mode))?;
        }
        entry.records.iter().try_for_each(|(key, value)| attributes::apply(path, key, value))
    };
    describe().map_err(|source| ArchiveError::File { action: "describe", path: path.to_owned(), source })
}

fn set_time(path: &Path, (seconds, nanoseconds): Moment) -> Result<(), ArchiveError> {
    let modified = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: modified, last_modification: modified };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| ArchiveError::File {
        action: "set the time of",
        path: path.to_owned(),
        source: error.into(),
    })
}
