//! The manifest: what a bake is, readable as far as magic and version without knowing the schema.
//!
//! ```text
//! 0   magic     8 bytes  "SMBAKE\0\0"
//! 8   version   u32 LE
//! 12  length    u32 LE   of the body
//! 16  body      postcard
//! ..  digest    32 bytes SHA-256 of all that precedes
//! ```

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::extents::{Extent, Extents, ExtentsError};
use crate::subject::Subject;
use crate::upper::{BLOCK_BYTES, MAX_DISK_BYTES};
use crate::written::{Run, Written, WrittenError};

/// Version of the format of manifest, state, memory and upper together. It is part of the machine key; a bake of another
/// version is never found, let alone converted.
pub const FORMAT_VERSION: u32 = 4;
/// First bytes of every manifest.
const MAGIC: [u8; 8] = *b"SMBAKE\0\0";
const HEADER_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
/// Largest manifest, in bytes.
pub(crate) const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// How much of a container's start a bake has behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A booted kernel and a waiting agent; good for every container.
    Base,
    /// The same with the layers of an image mounted and what its programs begin with read; good for every container of
    /// the image.
    Image,
    /// The same with the image's program running and ready; good for every container that differs in its identity alone.
    Warm,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Image => f.write_str("image"),
            Self::Warm => f.write_str("warm"),
        }
    }
}

/// Size and digest of one of the bake's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the contents.
    pub digest: Digest,
}

/// What the guest of a warm bake has written to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// Size of the disk in bytes, a whole number of blocks of 4096.
    pub disk_bytes: u64,
    /// The `upper` file.
    pub part: Part,
}

/// What a bake is. Extents have been checked against memory and file size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the bake is of.
    pub subject: Subject,
    /// Digest of the memory file of the bake that this one lies over, if it lies over one: pages that its own memory file
    /// doesn't have are that one's.
    pub over: Option<Digest>,
    /// The `state` file.
    pub state: Part,
    /// The `memory` file.
    pub memory: Part,
    /// Where its pages belong.
    pub extents: Extents,
    /// Pages that a guest writes to whenever it is restored until its agent answers, whichever bake's they are.
    pub written: Written,
    /// Those that it writes to after that, when its first container is made.
    pub written_later: Written,
    /// The disk, of a warm bake.
    pub upper: Option<Upper>,
}

/// The body as it is stored: nothing is checked.
#[derive(Serialize, Deserialize)]
struct Body {
    subject: Subject,
    over: Option<Digest>,
    state: Part,
    memory: Part,
    extents: Vec<Extent>,
    written: Vec<Run>,
    written_later: Vec<Run>,
    upper: Option<Upper>,
}

/// A manifest that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is no manifest at all.
    #[error("the manifest does not begin with the bake magic")]
    NotAManifest,
    /// It is of another format version.
    #[error("the manifest has format version {found}; this program reads version {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Header and size disagree.
    #[error("the manifest has {bytes} bytes; its header says otherwise")]
    Length {
        /// Its size.
        bytes: usize,
    },
    /// Its bytes are not those that were written.
    #[error("the manifest's digest does not match its contents")]
    Digest,
    /// Its body does not decode.
    #[error("the manifest's body does not decode")]
    Body(#[source] postcard::Error),
    /// Its body decodes and bytes are left over.
    #[error("the manifest's body is followed by {bytes} stray bytes")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// It lies over another bake and shouldn't, or the other way round.
    #[error("the manifest is of level {level} and says the wrong thing about what it lies over")]
    Over {
        /// Its level.
        level: Level,
    },
    /// It has a disk and shouldn't, the other way round, or one of an impossible size.
    #[error("the manifest is of level {level} and says the wrong thing about its disk")]
    Disk {
        /// Its level.
        level: Level,
    },
    /// Its extents don't fit memory or file.
    #[error("the manifest's memory extents are unusable")]
    Extents(#[source] ExtentsError),
    /// The pages that are written to don't fit memory.
    #[error("the manifest's written pages are unusable")]
    Written(#[source] WrittenError),
    /// It is too large.
    #[error("the manifest would exceed {MAX_MANIFEST_BYTES} bytes")]
    TooLarge,
}

impl Manifest {
    /// The manifest's bytes.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        let body = postcard::to_stdvec(&Body {
            subject: self.subject.clone(),
            over: self.over,
            state: self.state,
            memory: self.memory,
            extents: self.extents.as_slice().to_vec(),
            written: self.written.as_slice().to_vec(),
            written_later: self.written_later.as_slice().to_vec(),
            upper: self.upper,
        })
        .map_err(ManifestError::Body)?;
        if body.len() > MAX_MANIFEST_BYTES - HEADER_BYTES - DIGEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let length = u32::try_from(body.len()).map_err(|_error| ManifestError::TooLarge)?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len() + DIGEST_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&Digest::of(&bytes).0);
        Ok(bytes)
    }

    /// Reads a manifest. The bytes are untrusted.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let length_error = ManifestError::Length { bytes: bytes.len() };
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(ManifestError::NotAManifest)?;
        if *magic != MAGIC {
            return Err(ManifestError::NotAManifest);
        }
        let Some((version, rest)) = rest.split_first_chunk::<4>() else { return Err(length_error) };
        let found = u32::from_le_bytes(*version);
        if found != FORMAT_VERSION {
            return Err(ManifestError::Version { found });
        }
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Err(length_error) };
        let Some((body, digest)) = rest.split_last_chunk::<DIGEST_BYTES>() else { return Err(length_error) };
        if usize::try_from(u32::from_le_bytes(*length)) != Ok(body.len()) {
            return Err(length_error);
        }
        if Digest::of(&bytes[..bytes.len() - DIGEST_BYTES]) != Digest(*digest) {
            return Err(ManifestError::Digest);
        }
        let (body, stray) = postcard::take_from_bytes::<Body>(body).map_err(ManifestError::Body)?;
        if !stray.is_empty() {
            return Err(ManifestError::Trailing { bytes: stray.len() });
        }
        Self::try_from(body)
    }
}

impl TryFrom<Body> for Manifest {
    type Error = ManifestError;

    fn try_from(body: Body) -> Result<Self, ManifestError> {
        let Body { subject, over, state, memory, extents, written, written_later, upper } = body;
        if over.is_some() != subject.parent().is_some() {
            return Err(ManifestError::Over { level: subject.level() });
        }
        let is_possible =
            |upper: Upper| upper.disk_bytes <= MAX_DISK_BYTES && upper.disk_bytes.is_multiple_of(BLOCK_BYTES);
        if upper.is_some() != (subject.level() == Level::Warm) || !upper.is_none_or(is_possible) {
            return Err(ManifestError::Disk { level: subject.level() });
        }
        let memory_bytes = subject.facts.memory_bytes;
        let extents = Extents::check(extents, memory_bytes, memory.bytes).map_err(ManifestError::Extents)?;
        let check = |runs| Written::check(runs, memory_bytes).map_err(ManifestError::Written);
        let (written, written_later) = (check(written)?, check(written_later)?);
        Ok(Self { subject, over, state, memory, extents, written, written_later, upper })
    }
}

#[cfg(test)]
mod tests;
