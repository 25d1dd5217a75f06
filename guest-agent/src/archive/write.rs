//! A tree that others may be changing, as an archive. No link is ever followed, whatever becomes one meanwhile.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use tar::EntryType;

use super::content::{Stopped, encode_map, is_solid, runs, write_run};
use super::header::Entry;
use super::{ArchiveError, BLOCK, attributes};

/// Opens what is there without waiting for anybody, and leaves no trace of having read it.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOATIME).union(OFlags::CLOEXEC);

/// Writes the directory `root` as `./`, and everything below it. What is removed meanwhile may be missing; a file that
/// changes meanwhile has some of both contents.
pub(crate) fn write_tree(root: &Path, out: impl Write) -> Result<(), ArchiveError> {
    let mut archive = Archive { out, links: HashMap::new() };
    let top = openat(CWD, root, READ.union(OFlags::DIRECTORY), Mode::empty()).map_err(file("open", root))?;
    archive.directory(top.as_fd(), b"./")?;
    // Directories that are being read, each in the one before: as deep as it takes.
    let mut open = vec![(Dir::new(top).map_err(file("read", root))?, Vec::new())];
    while let Some((directory, path)) = open.last_mut() {
        let Some(entry) = directory.next() else {
            open.pop();
            continue;
        };
        let entry = entry.map_err(file("read", OsStr::from_bytes(path)))?;
        let name = entry.file_name();
        if [c".", c".."].contains(&name) {
            continue;
        }
        let below =
            if path.is_empty() { name.to_bytes().to_vec() } else { [&path[..], b"/", name.to_bytes()].concat() };
        let parent = directory.fd().map_err(file("read", OsStr::from_bytes(&below)))?;
        if let Some(child) = archive.child(parent, name, &below)? {
            open.push((child, below));
        }
    }
    archive.write(&[0; 2 * BLOCK])?;
    archive.out.flush().map_err(ArchiveError::Write)
}

struct Archive<W> {
    out: W,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Archive<W> {
    /// Writes what has this name in a directory; a directory is returned, to be gone through.
    fn child(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Dir>, ArchiveError> {
        let failed = |action| file(action, OsStr::from_bytes(path));
        let stat = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(failed("look at"))?,
        };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory | FileType::RegularFile => return self.opened(parent, name, path),
            FileType::Symlink => EntryType::Symlink,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        if self.linked(&stat, path)? {
            return Ok(None);
        }
        let mut entry = entry(kind, path, &stat);
        if kind == EntryType::Symlink {
            match readlinkat(parent, name, Vec::new()) {
                // It is gone, or something else by now.
                Err(Errno::NOENT | Errno::INVAL) => return Ok(None),
                target => entry.target = target.map_err(failed("read"))?.into_bytes(),
            }
        } else {
            entry.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        entry.records = attributes_of(parent, name, path)?;
        self.entry(&entry)?;
        self.remember(&stat, path);
        Ok(None)
    }

    /// Writes a directory or file: from here on what was opened counts, whatever the name leads to by now.
    fn opened(&mut self, parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<Option<Dir>, ArchiveError> {
        let failed = |action| file(action, OsStr::from_bytes(path));
        let fd = match openat(parent, name, READ, Mode::empty()) {
            // Gone, or now a link, a socket or a device without a driver.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(None),
            fd => fd.map_err(failed("open"))?,
        };
        let stat = fstat(&fd).map_err(failed("look at"))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.directory(fd.as_fd(), path)?;
                Dir::new(fd).map(Some).map_err(failed("read"))
            }
            FileType::RegularFile => {
                if !self.linked(&stat, path)? {
                    self.regular(&File::from(fd), &stat, path)?;
                    self.remember(&stat, path);
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), ArchiveError> {
        let stat = fstat(directory).map_err(file("look at", OsStr::from_bytes(path)))?;
        let mut entry = entry(EntryType::Directory, path, &stat);
        entry.records = attributes::read_open(directory).map_err(attributes_failed(path))?;
        self.entry(&entry)
    }

    fn regular(&mut self, content: &File, stat: &Stat, path: &[u8]) -> Result<(), ArchiveError> {
        let size = stat.st_size.cast_unsigned();
        let runs = runs(content, size).map_err(|source| ArchiveError::File {
            action: "read",
            path: OsStr::from_bytes(path).into(),
            source,
        })?;
        let mut entry = entry(EntryType::Regular, path, stat);
        entry.records = attributes::read_open(content.as_fd()).map_err(attributes_failed(path))?;
        let data: u64 = runs.iter().map(|(_, length)| length).sum();
        entry.length = data;
        if is_solid(&runs, size) {
            self.entry(&entry)?;
        } else {
            let map = encode_map(&runs, size);
            entry.length += map.len() as u64;
            entry.sparse = Some(size);
            self.entry(&entry)?;
            self.write(&map)?;
        }
        for run in runs {
            write_run(content, run, &mut self.out).map_err(|stopped| match stopped {
                Stopped::Writing(error) => ArchiveError::Write(error),
                Stopped::Reading(source) => {
                    ArchiveError::File { action: "read", path: OsStr::from_bytes(path).into(), source }
                }
            })?;
        }
        let padding = data.next_multiple_of(BLOCK as u64) - data;
        self.write([0; BLOCK].get(..padding as usize).unwrap_or_default())
    }

    /// Writes a further name of a file that has one already.
    fn linked(&mut self, stat: &Stat, path: &[u8]) -> Result<bool, ArchiveError> {
        let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) else { return Ok(false) };
        let mut link = entry(EntryType::Link, path, stat);
        link.target = first.clone();
        self.entry(&link)?;
        Ok(true)
    }

    fn remember(&mut self, stat: &Stat, path: &[u8]) {
        if stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), ArchiveError> {
        let blocks = entry.encode().map_err(|source| ArchiveError::File {
            action: "describe",
            path: OsStr::from_bytes(&entry.name).into(),
            source,
        })?;
        self.write(&blocks)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.out.write_all(bytes).map_err(ArchiveError::Write)
    }
}

fn entry(kind: EntryType, path: &[u8], stat: &Stat) -> Entry {
    Entry {
        kind,
        name: path.to_vec(),
        target: Vec::new(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default()),
        device: (0, 0),
        length: 0,
        sparse: None,
        records: Vec::new(),
    }
}

/// The attributes of what has this name in a directory. What is gone has none.
fn attributes_of(parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> Result<attributes::Records, ArchiveError> {
    let place = format!("/proc/self/fd/{}", parent.as_raw_fd());
    match attributes::read_path(&Path::new(&place).join(OsStr::from_bytes(name.to_bytes()))) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(attributes_failed(path)),
    }
}

fn attributes_failed(path: &[u8]) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = OsStr::from_bytes(path).into();
    move |source| ArchiveError::File { action: "read the attributes of", path, source }
}

fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(Errno) -> ArchiveError {
    let path = path.as_ref().to_owned();
    move |source| ArchiveError::File { action, path, source: source.into() }
}
