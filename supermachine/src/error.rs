//! What errors of this library have in common.

use std::error::Error;

/// What kind of fault an error is, for those who answer a caller with a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What the caller gave makes no sense.
    InvalidArgument,
    /// Something the caller named doesn't exist.
    NotFound,
    /// This host can't do it as it is set up.
    FailedPrecondition,
    /// Something went away or refused; trying again may help.
    Unavailable,
    /// It took too long.
    DeadlineExceeded,
    /// Anything else: a fault of ours.
    Internal,
}

/// An error and its causes in one line, outermost first.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
