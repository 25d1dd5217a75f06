//! An image with further files of the host: another image, of the layers that it has and one with the files.

mod archive;
mod layer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::containerd::{Documents, ImageError};

/// A file or directory of the host, and where an image is to have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExtraFile {
    pub(crate) host: PathBuf,
    /// Absolute.
    pub(crate) guest: PathBuf,
}

/// What `HOST:GUEST` may not be.
#[derive(Debug, thiserror::Error)]
#[error("write HOST:GUEST, where GUEST is an absolute path without `.` or `..`")]
pub(crate) struct NoExtraFile;

impl FromStr for ExtraFile {
    type Err = NoExtraFile;

    fn from_str(text: &str) -> Result<Self, NoExtraFile> {
        let (host, guest) = text.rsplit_once(":/").ok_or(NoExtraFile)?;
        let is_plain = guest.split('/').all(|part| !["", ".", ".."].contains(&part));
        if host.is_empty() || !is_plain {
            return Err(NoExtraFile);
        }
        Ok(Self { host: host.into(), guest: Path::new("/").join(guest) })
    }
}

/// The image can't be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExtraFilesError {
    /// A file of the host's.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something that isn't put into images.
    #[error("{} is neither a file nor a directory nor a symbolic link", path.display())]
    Kind {
        /// What it is.
        path: PathBuf,
    },
    /// The archive.
    #[error("cannot write the image; is there room in {}?", std::env::temp_dir().display())]
    Write(#[source] io::Error),
    /// The image it is made of makes no sense.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A document without something that every one has.
    #[error("the image's {document} has no {member}")]
    Incomplete {
        /// Which one.
        document: &'static str,
        /// What it lacks.
        member: &'static str,
    },
}

/// Writes an OCI archive of the image `base` with further files, under a name, without the layers that `base` has. From
/// the same files, whenever they were written, it is the same image.
pub(crate) fn write(base: &Documents, files: &[ExtraFile], name: &str, to: &mut File) -> Result<(), ExtraFilesError> {
    let layer = layer::write(files)?;
    archive::write(base, layer, name, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_host_and_one_in_the_image_are_told_apart() {
        let parse = |text: &str| text.parse::<ExtraFile>().map(|file| (file.host, file.guest));
        assert_eq!(parse("a:/b").unwrap(), (PathBuf::from("a"), PathBuf::from("/b")));
        assert_eq!(parse("/a:/b:/c d/e").unwrap(), (PathBuf::from("/a:/b"), PathBuf::from("/c d/e")));
        for wrong in ["a", "a:b", ":/b", "a:/", "a:/b/", "a:/b//c", "a:/../b", "a:/b/."] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
