//! Answers to what the guest's FUSE client asks, by crate `virtiofsd`.

use std::fmt;
use std::fs::File;
use std::io;
use std::time::Duration;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{AttrOut, EntryOut, GETATTR_FH, InHeader, Opcode, OpenOut, OutHeader};
use virtiofsd::passthrough::{CachePolicy, Config, NegotiationMode, PassthroughFs};
use virtiofsd::server::Server;

use super::notices::Notices;
use super::standing::{content_of, let_attributes_stand, let_directory_stand};
use crate::ring::{Buffers, Chain, Request};
use crate::sys::View;

/// A server of everything below one directory.
pub struct FileServer {
    server: Server<PassthroughFs>,
    notices: Notices,
}

impl FileServer {
    /// Serves what is below `root`, which the process sees under this path, and follows mounts there. Opens files by
    /// means of `open_files`, the process's `/proc/self/fd`, and at most `limit` at a time, the ones that the guest only
    /// remembers among them. Clears the process's umask.
    ///
    /// Nothing is kept by the guest beyond one system call but the contents of files, which it asks about before it uses
    /// them: what changes on the host is seen at once.
    pub fn new(root: &str, open_files: File, limit: u64) -> io::Result<Self> {
        let config = Config {
            root_dir: root.to_owned(),
            proc_sfd_rawfd: Some(open_files),
            entry_timeout: Duration::ZERO,
            attr_timeout: Duration::ZERO,
            cache_policy: CachePolicy::Auto,
            xattr: true,
            posix_acl: NegotiationMode::Auto,
            killpriv_v2: true,
            announce_submounts: true,
            // Would open every file of a directory that is listed.
            readdirplus: false,
            guest_fd_limit: limit,
            ..Config::default()
        };
        Ok(Self { server: Server::new(PassthroughFs::new(config)?), notices: Notices::new() })
    }

    /// Answers a request; returns the bytes written to it. One that makes no sense is given back as it is.
    pub(super) fn answer(&self, view: &View, chain: Chain<'_>) -> u32 {
        let Some((reader, mut writer)) = open(view, &chain) else { return 0 };
        let Ok(header) = reader.clone().read_obj::<InHeader>() else { return 0 };
        // The server panics where there is no room for the head of its answer.
        if writer.available_bytes() < HEADER_BYTES as usize && !needs_no_answer(&header) {
            return 0;
        }
        if let Some(written) = self.notices.answer(&header, &reader, &mut writer) {
            return written;
        }
        let asked = Asked::of(&header, &reader, &self.notices);
        let written = self.server.handle_message(reader, writer, None::<&mut ()>).unwrap_or_else(|error| {
            tracing::debug!(%error, "a request for files makes no sense");
            0
        });
        let written = u32::try_from(written).unwrap_or(0);
        let Ok(Request { writable, .. }) = chain.request else { return written };
        self.add_to_answer(asked, writable, written);
        written
    }

    /// Says how long an answer holds, and remembers the name that was looked up if it was found.
    fn add_to_answer(&self, asked: Asked, answer: Buffers<'_>, written: u32) {
        match asked {
            Asked::Name(name) => {
                if let Some(entry) = content_of::<EntryOut>(answer, written, 0) {
                    self.notices.remember(name);
                    let_directory_stand(entry);
                }
            }
            Asked::Attributes { of_open_file } => {
                if let Some(attributes) = content_of::<AttrOut>(answer, written, 0) {
                    let stand = if of_open_file { let_attributes_stand } else { let_directory_stand };
                    stand(attributes);
                }
            }
            Asked::NewFile => {
                if let Some(entry) = content_of::<EntryOut>(answer, written, size_of::<OpenOut>()) {
                    let_attributes_stand(entry);
                }
            }
            Asked::Other => {}
        }
    }
}

/// What a request asks for, as far as its answer is added to.
#[derive(Clone, Copy)]
enum Asked {
    /// A name, by its hash. Not by the agent.
    Name(u64),
    Attributes {
        of_open_file: bool,
    },
    NewFile,
    Other,
}

impl Asked {
    fn of(header: &InHeader, reader: &Reader<'_>, notices: &Notices) -> Self {
        match Opcode::try_from(header.opcode) {
            Ok(Opcode::Lookup) => notices.looked_up(header, reader).map_or(Self::Other, Self::Name),
            Ok(Opcode::Getattr) => {
                let mut request = reader.clone();
                let flags = request.read_obj::<InHeader>().and_then(|_header| request.read_obj::<u32>());
                Self::Attributes { of_open_file: flags.is_ok_and(|flags| flags & GETATTR_FH != 0) }
            }
            Ok(Opcode::Create) => Self::NewFile,
            _ => Self::Other,
        }
    }
}

impl fmt::Debug for FileServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileServer").finish_non_exhaustive()
    }
}

/// Answers a request that there is nothing.
pub(super) fn refuse(view: &View, chain: &Chain<'_>) -> u32 {
    let Some((mut reader, mut writer)) = open(view, chain) else { return 0 };
    let Ok(InHeader { unique, .. }) = reader.read_obj() else { return 0 };
    let header = OutHeader { len: HEADER_BYTES, error: -libc::ENODEV, unique };
    // Requests that have no answer have no room for one.
    if writer.write_obj(header).is_ok() { HEADER_BYTES } else { 0 }
}

/// Whether it is a request that the kernel gives no room for an answer to.
fn needs_no_answer(header: &InHeader) -> bool {
    [Opcode::Forget, Opcode::BatchForget].into_iter().any(|silent| header.opcode == silent as u32)
}

/// Length of an answer without content.
const HEADER_BYTES: u32 = size_of::<OutHeader>() as u32;

fn open<'v>(view: &'v View, chain: &Chain<'_>) -> Option<(Reader<'v>, Writer<'v>)> {
    chain.request.as_ref().ok()?;
    let reader = Reader::new(view.memory(), chain.descriptors.clone()).ok()?;
    let writer = Writer::new(view.memory(), chain.descriptors.clone()).ok()?;
    Some((reader, writer))
}
