//! Why a start is not restored.

use std::error::Error;
use std::path::PathBuf;

use crate::key::Key;
use crate::manifest::Level;

/// Why there is no usable bake. Its text is what users see.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// None was made yet.
    #[error("no bake for this machine key yet")]
    Absent,
    /// There is none of the image; there may be one of the machine.
    #[error("no bake of this image yet")]
    NoImage,
    /// There is none of the container's process; there may be one of the image.
    #[error("no warm bake of this process yet")]
    NoWarm,
    /// A warm bake is wanted, and there can't be one.
    #[error("no warm bake: {why}")]
    NeverWarm {
        /// Why not.
        why: String,
    },
    /// Which bake it would be isn't known.
    #[error("the layer {} wasn't read yet since the host booted or the layer was made", layer.display())]
    Undigested {
        /// A layer of the image.
        layer: PathBuf,
    },
    /// It is damaged or foreign, and was removed.
    #[error("bake {key} is corrupt: {}; removed", chain(damage))]
    Corrupt {
        /// The bake.
        key: Key,
        /// What is wrong.
        damage: Damage,
    },
    /// Someone else could have written it.
    #[error("bake {key} is not trusted: {} {problem}", path.display())]
    Untrusted {
        /// The bake.
        key: Key,
        /// The file or directory in question.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
    /// It can't be read.
    #[error("bake {key} can't be read: {}: {error}", path.display())]
    Unreadable {
        /// The bake.
        key: Key,
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The configuration says so.
    #[error("baking is off (config)")]
    Off,
}

impl Reason {
    /// Why there is no bake of a level, if there just is none.
    pub(crate) fn absent(level: Level) -> Self {
        match level {
            Level::Base => Self::Absent,
            Level::Image => Self::NoImage,
            Level::Warm => Self::NoWarm,
        }
    }

    /// Whether something is wrong with a bake, rather than that there is none.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Absent
            | Self::NoImage
            | Self::NoWarm
            | Self::NeverWarm { .. }
            | Self::Undigested { .. }
            | Self::Off => false,
            Self::Corrupt { .. } | Self::Untrusted { .. } | Self::Unreadable { .. } => true,
        }
    }

    /// What is wrong, without what was done about it.
    pub fn fault(&self) -> String {
        match self {
            Self::Corrupt { damage, .. } => chain(damage),
            other => other.to_string(),
        }
    }
}

/// What is wrong with a bake.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Its manifest.
    #[error(transparent)]
    Manifest(crate::ManifestError),
    /// A file is missing.
    #[error("the file `{file}` is missing")]
    Missing {
        /// Its name.
        file: &'static str,
    },
    /// A file's size.
    #[error("the file `{file}` has {found} bytes instead of {expected}")]
    Size {
        /// Its name.
        file: &'static str,
        /// Its size in bytes.
        found: u64,
        /// What the manifest says.
        expected: u64,
    },
    /// A file's contents.
    #[error("the digest of the file `{file}` does not match the manifest")]
    Contents {
        /// Its name.
        file: &'static str,
    },
    /// It is another machine's bake under our key.
    #[error("it was made for another machine ({difference})")]
    Foreign {
        /// What differs.
        difference: String,
    },
    /// What it lies over is gone.
    #[error("the bake that it differs from was made anew")]
    Orphaned,
    /// The VMM found its state unusable, or the guest didn't survive being restored.
    #[error("{message}")]
    Unusable {
        /// What happened.
        message: String,
    },
}

/// An error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
