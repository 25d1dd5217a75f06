//! Why a container or a process in it could not be set up.

use std::fmt::Display;
use std::io;
use std::path::Path;

use cgroup_limits::LimitError;

use crate::refusal::{Kind, Refusal};

/// A failed step of container set-up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// The spec asks for something that can't be met.
    #[error("{field}: {reason}")]
    Spec { field: String, reason: String },
    /// A limit that can't be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The kernel refused a step.
    #[error("{action} {object}")]
    System {
        action: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    /// `argv[0]` names nothing in `$PATH`.
    #[error("exec: {program:?}: executable file not found in $PATH")]
    NotInPath { program: String },
    /// `argv[0]` is a path that doesn't lead to a program.
    #[error("exec: {program:?}: stat {program}")]
    NoProgram {
        program: String,
        #[source]
        source: io::Error,
    },
    /// `argv[0]` was found in a part of `$PATH` that is relative.
    #[error("exec: {program:?}: found relative to the current directory; name an absolute path")]
    Relative { program: String },
    /// The program exists and may not be executed.
    #[error("exec: {program:?}: permission denied")]
    NotExecutable { program: String },
    /// `argv[0]` is the path of a directory.
    #[error("exec: {program:?}: is a directory")]
    Directory { program: String },
    /// execve itself failed.
    #[error("exec {program}")]
    Exec {
        program: String,
        #[source]
        source: io::Error,
    },
    /// Whoever asked for the process is gone, so it must not run.
    #[error("the request was withdrawn before the process started")]
    Withdrawn,
}

impl SetupError {
    /// A spec field with a value that can't be met.
    pub(crate) fn spec(field: impl Into<String>, reason: impl Display) -> Self {
        Self::Spec { field: field.into(), reason: reason.to_string() }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Spec { .. } | Self::Relative { .. } | Self::Limit(_) => Kind::InvalidArgument,
            Self::System { source, .. } => match source.raw_os_error() {
                Some(libc::ENOMEM | libc::ENOSPC | libc::EMFILE | libc::ENFILE) => Kind::ResourceExhausted,
                _ => Kind::Internal,
            },
            Self::NotInPath { .. } => Kind::NotFound,
            Self::NotExecutable { .. } | Self::Directory { .. } => Kind::PermissionDenied,
            Self::NoProgram { source, .. } | Self::Exec { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Kind::NotFound,
                Some(libc::EACCES | libc::EPERM) => Kind::PermissionDenied,
                Some(libc::ENOEXEC | libc::ELOOP | libc::ENAMETOOLONG | libc::E2BIG | libc::EISDIR | libc::EINVAL) => {
                    Kind::InvalidArgument
                }
                _ => Kind::Internal,
            },
            Self::Withdrawn => Kind::FailedPrecondition,
        }
    }
}

impl From<SetupError> for Refusal {
    fn from(error: SetupError) -> Self {
        Self::from_error(error.kind(), &error)
    }
}

/// Names the step that an I/O result belongs to.
pub(crate) trait Step<T> {
    /// Turns a failure into [`SetupError::System`] with what was done to what.
    fn step(self, action: &'static str, object: impl Display) -> Result<T, SetupError>;
    /// The same for a path.
    fn on(self, action: &'static str, path: &Path) -> Result<T, SetupError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, action: &'static str, object: impl Display) -> Result<T, SetupError> {
        self.map_err(|error| SetupError::System { action, object: object.to_string(), source: error.into() })
    }

    fn on(self, action: &'static str, path: &Path) -> Result<T, SetupError> {
        self.step(action, path.display())
    }
}
