//! A directory as a tar stream that depends on nothing but its content: sorted by name, numeric owners, whole-second
//! times, extended attributes in PAX records.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::attributes;

/// Why a directory can't be turned into a stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("can't read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} changed while it was being read: it isn't {expected} bytes long")]
    Changed { path: PathBuf, expected: u64 },
    #[error("the stream's reader is gone")]
    Write {
        #[source]
        source: io::Error,
    },
}

/// What a squashfs layer can't hold, and was left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Extended attributes outside `user.`, `trusted.` and `security.`, which are POSIX ACLs in practice.
    pub(crate) attributes: u64,
    /// Unix sockets, which tar doesn't know.
    pub(crate) sockets: u64,
}

/// Writes everything below `root`, and `root` itself as `./`.
pub(crate) fn write_tree(root: &Path, out: impl Write) -> Result<LeftOut, StreamError> {
    let mut stream = Stream { root, tar: Builder::new(out), links: HashMap::new(), left_out: LeftOut::default() };
    let mut pending = vec![PathBuf::new()];
    while let Some(name) = pending.pop() {
        if stream.entry(&name)? {
            let mut children = stream.children(&name)?;
            // The last one is taken first.
            children.sort_by(|a, b| b.as_os_str().cmp(a.as_os_str()));
            pending.append(&mut children);
        }
    }
    stream.tar.into_inner().and_then(|mut out| out.flush()).map_err(|source| StreamError::Write { source })?;
    Ok(stream.left_out)
}

struct Stream<'a, W: Write> {
    root: &'a Path,
    tar: Builder<W>,
    /// First name of each file that has several.
    links: HashMap<(u64, u64), PathBuf>,
    left_out: LeftOut,
}

/// A field of an old header holds this many bytes of a name; longer ones go into a PAX record.
const NAME_FIELD: usize = 100;

impl<W: Write> Stream<'_, W> {
    fn children(&self, name: &Path) -> Result<Vec<PathBuf>, StreamError> {
        let path = self.root.join(name);
        let failed = |source| StreamError::Read { path: path.clone(), source };
        let entries = fs::read_dir(&path).map_err(failed)?;
        entries.map(|entry| Ok(name.join(entry.map_err(failed)?.file_name()))).collect()
    }

    /// Writes one entry; returns whether it is a directory.
    fn entry(&mut self, name: &Path) -> Result<bool, StreamError> {
        let path = self.root.join(name);
        let failed = |source| StreamError::Read { path: path.clone(), source };
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        let Some(kind) = entry_type(&metadata) else {
            self.left_out.sockets += 1;
            return Ok(false);
        };
        if metadata.is_file()
            && metadata.nlink() > 1
            && let Some(first) = self.links.get(&(metadata.dev(), metadata.ino()))
        {
            let target = first.as_os_str().as_bytes().to_vec();
            self.append(Entry::new(EntryType::Link, name, &metadata).to(target), io::empty())?;
            return Ok(false);
        }
        let read = attributes::read(&path).map_err(failed)?;
        self.left_out.attributes += read.left_out;
        let mut entry = Entry::new(kind, name, &metadata);
        entry.attributes = read.kept;
        match kind {
            EntryType::Symlink => {
                let target = fs::read_link(&path).map_err(failed)?.as_os_str().as_bytes().to_vec();
                self.append(entry.to(target), io::empty())?;
            }
            EntryType::Regular => {
                if metadata.nlink() > 1 {
                    self.links.insert((metadata.dev(), metadata.ino()), name.to_owned());
                }
                self.append_file(entry, &path, metadata.len())?;
            }
            _ => self.append(entry, io::empty())?,
        }
        Ok(kind == EntryType::Directory)
    }

    fn append_file(&mut self, mut entry: Entry, path: &Path, size: u64) -> Result<(), StreamError> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let opened = File::options().read(true).custom_flags(nofollow).open(path);
        let file = opened.map_err(|source| StreamError::Read { path: path.to_owned(), source })?;
        entry.header.set_size(size);
        let mut content = Exactly { inner: file, left: size, failure: None };
        let written = self.append(entry, &mut content);
        match content.failure {
            None => written,
            Some(Failure::Length) => Err(StreamError::Changed { path: path.to_owned(), expected: size }),
            Some(Failure::Read(source)) => Err(StreamError::Read { path: path.to_owned(), source }),
        }
    }

    fn append(&mut self, entry: Entry, content: impl Read) -> Result<(), StreamError> {
        let Entry { mut header, name, target, attributes } = entry;
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        if name.len() > NAME_FIELD {
            records.push(("path", &name));
        }
        if target.len() > NAME_FIELD {
            records.push(("linkpath", &target));
        }
        records.extend(attributes.iter().map(|(key, value)| (key.as_str(), value.as_slice())));
        fill(&mut header.as_old_mut().name, &name);
        fill(&mut header.as_old_mut().linkname, &target);
        header.set_cksum();
        let written = self.tar.append_pax_extensions(records).and_then(|()| self.tar.append(&header, content));
        written.map_err(|source| StreamError::Write { source })
    }
}

fn fill(field: &mut [u8; NAME_FIELD], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}

struct Entry {
    header: Header,
    name: Vec<u8>,
    target: Vec<u8>,
    /// PAX keys and values.
    attributes: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(kind: EntryType, name: &Path, metadata: &Metadata) -> Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        header.set_size(0);
        // squashfs has 32 bits for a time, counted from 1970.
        header.set_mtime(metadata.mtime().clamp(0, u32::MAX.into()).cast_unsigned());
        if let (EntryType::Char | EntryType::Block, Some(ustar)) = (kind, header.as_ustar_mut()) {
            ustar.set_device_major(rustix::fs::major(metadata.rdev()));
            ustar.set_device_minor(rustix::fs::minor(metadata.rdev()));
        }
        let name = if name.as_os_str().is_empty() { b"./".to_vec() } else { name.as_os_str().as_bytes().to_vec() };
        Self { header, name, target: Vec::new(), attributes: Vec::new() }
    }

    fn to(mut self, target: Vec<u8>) -> Self {
        self.target = target;
        self
    }
}

fn entry_type(metadata: &Metadata) -> Option<EntryType> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        Some(EntryType::Directory)
    } else if kind.is_file() {
        Some(EntryType::Regular)
    } else if kind.is_symlink() {
        Some(EntryType::Symlink)
    } else if kind.is_char_device() {
        Some(EntryType::Char)
    } else if kind.is_block_device() {
        Some(EntryType::Block)
    } else if kind.is_fifo() {
        Some(EntryType::Fifo)
    } else {
        None
    }
}

/// Reads a file of a known length, and remembers what went wrong: the tar builder's errors don't tell a failed read
/// from a failed write.
struct Exactly {
    inner: File,
    left: u64,
    failure: Option<Failure>,
}

enum Failure {
    Length,
    Read(io::Error),
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..most).unwrap_or_default();
        match self.inner.read(part) {
            Ok(0) => {
                self.failure = Some(Failure::Length);
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failure = Some(Failure::Read(error));
                Err(kind.into())
            }
        }
    }
}
