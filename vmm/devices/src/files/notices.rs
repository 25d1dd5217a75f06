//! Notices: how a guest's kernel learns what changes on the host, so that it tells the programs that watch files there.
//!
//! FUSE lets a server say that something isn't valid any more, but not that it changed. A kernel tells its watchers what
//! it does itself; so the guest's agent does what was done on the host once more, as a user that nobody else is, and the
//! server pretends that it was done. No request of that user's changes anything, and what it was told of names holds
//! only until somebody else asks.

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{Attr, EntryOut, InHeader, Opcode, OpenOut, OutHeader};
use virtiofsd::soft_idmap::Id;
use vm_memory::ByteValued;

use crate::layout::{NOTICES_ABSENT, NOTICES_DIRECTORY, NOTICES_FILE, NOTICES_UID};

/// Nodes of the server are counted from 1.
const FIRST_NODE: u64 = 1 << 63;
/// Names that are remembered. One is forgotten when another takes its place.
const NAMES: usize = 4096;
/// Longest name that is remembered, with the zero that ends it.
const NAME_BYTES: usize = 256;

/// What is pretended.
#[derive(Debug)]
pub(super) struct Notices {
    next_node: AtomicU64,
    /// Names that the guest was told exist, by their hashes.
    known: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// An answer that pretends.
enum Pretence {
    Done,
    Absent,
    Opened,
    Entry { mode: u32 },
}

impl Notices {
    pub(super) fn new() -> Self {
        let known = std::iter::repeat_with(AtomicU64::default).take(NAMES).collect();
        Self { next_node: AtomicU64::new(FIRST_NODE), known, hasher: RandomState::new() }
    }

    /// Answers a request of the agent's that is to change nothing; returns the bytes written, or nothing if the request is
    /// to be answered truly.
    pub(super) fn answer(&self, header: &InHeader, reader: &Reader<'_>, writer: &mut Writer<'_>) -> Option<u32> {
        if header.uid.into_inner() != NOTICES_UID {
            return None;
        }
        let pretence = match Opcode::try_from(header.opcode).ok()? {
            Opcode::Lookup => self.look_up(header, reader)?,
            Opcode::Mknod => Pretence::Entry { mode: libc::S_IFREG },
            Opcode::Mkdir => Pretence::Entry { mode: libc::S_IFDIR },
            Opcode::Open => Pretence::Opened,
            Opcode::Unlink | Opcode::Rmdir | Opcode::Fallocate | Opcode::Setxattr | Opcode::Flush => Pretence::Done,
            _ => return None,
        };
        Some(self.write(&pretence, header.unique, writer))
    }

    /// What the agent looks up is the name that it acts on. A directory that somebody may be in isn't made again: its
    /// name would lead to it no more.
    fn look_up(&self, header: &InHeader, reader: &Reader<'_>) -> Option<Pretence> {
        match header.gid.into_inner() {
            NOTICES_ABSENT => {
                let name = self.name(header, reader)?;
                (!self.is_known(name)).then_some(Pretence::Absent)
            }
            NOTICES_FILE => Some(Pretence::Entry { mode: libc::S_IFREG }),
            NOTICES_DIRECTORY => {
                self.forget(self.name(header, reader)?);
                Some(Pretence::Entry { mode: libc::S_IFDIR })
            }
            _ => None,
        }
    }

    /// The name that is looked up, to be remembered when it was found; nothing if it is another request, or the agent's.
    pub(super) fn looked_up(&self, header: &InHeader, reader: &Reader<'_>) -> Option<u64> {
        let is_lookup = header.opcode == Opcode::Lookup as u32 && header.uid.into_inner() != NOTICES_UID;
        if is_lookup { self.name(header, reader) } else { None }
    }

    /// Remembers a name that was found.
    pub(super) fn remember(&self, name: u64) {
        self.place(name).store(name, Ordering::Relaxed);
    }

    fn is_known(&self, name: u64) -> bool {
        self.place(name).load(Ordering::Relaxed) == name
    }

    fn forget(&self, name: u64) {
        let _other = self.place(name).compare_exchange(name, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn place(&self, name: u64) -> &AtomicU64 {
        &self.known[name as usize % NAMES]
    }

    /// The hash of the name that a request brings and of the directory that it is in.
    fn name(&self, header: &InHeader, reader: &Reader<'_>) -> Option<u64> {
        let bytes = (header.len as usize).checked_sub(size_of::<InHeader>())?.min(NAME_BYTES);
        let mut request = reader.clone();
        request.read_obj::<InHeader>().ok()?;
        let mut name = [0; NAME_BYTES];
        request.read_exact(&mut name[..bytes]).ok()?;
        Some(self.hasher.hash_one((header.nodeid, &name[..bytes])))
    }

    fn write(&self, pretence: &Pretence, unique: u64, writer: &mut Writer<'_>) -> u32 {
        let (error, content) = match pretence {
            Pretence::Done => (0, Vec::new()),
            Pretence::Absent => (-libc::ENOENT, Vec::new()),
            Pretence::Opened => (0, OpenOut { fh: u64::MAX, ..OpenOut::default() }.as_slice().to_vec()),
            Pretence::Entry { mode } => (0, self.entry(*mode).as_slice().to_vec()),
        };
        let len = (size_of::<OutHeader>() + content.len()) as u32;
        let written = writer.write_obj(OutHeader { len, error, unique }).and_then(|()| writer.write_all(&content));
        // A request without room for its answer gets none.
        written.map_or(0, |()| len)
    }

    /// A file that nobody else sees.
    fn entry(&self, mode: u32) -> EntryOut {
        let nodeid = self.next_node.fetch_add(1, Ordering::Relaxed) | FIRST_NODE;
        let attr = Attr { ino: nodeid, mode, nlink: 1, blksize: 4096, ..Attr::default() };
        EntryOut { nodeid, attr, ..EntryOut::default() }
    }
}
