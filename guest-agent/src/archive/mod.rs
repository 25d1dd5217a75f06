//! A directory tree as a tar stream, in both directions, exactly: kinds, modes, owners, times to the nanosecond, hard
//! and symbolic links, devices (so an overlay's whiteouts), extended attributes, holes, names of any bytes. The other
//! end is GNU tar on the host. Only sockets are left out, which tar doesn't know.
//!
//! The format is POSIX's (pax): what a header can't say stands in records before it, holes in GNU's version 1.0.

mod attributes;
mod content;
mod header;
mod unpack;
mod write;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub(crate) use unpack::unpack;
pub(crate) use write::write_tree;

/// Archives are made of blocks of this many bytes.
const BLOCK: usize = 512;

/// A tree that can't be written as an archive, or an archive that can't be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// A file of the tree.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Its path within the tree.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Whoever reads the archive is gone.
    #[error("the archive's reader is gone")]
    Write(#[source] io::Error),
    /// Whoever writes the archive is gone.
    #[error("the archive ends early")]
    Read(#[source] io::Error),
    /// No archive.
    #[error("the archive is damaged: {0}")]
    Damaged(&'static str),
}
