//! Why a request was not carried out, in the form that crosses process boundaries and ends as an RPC status.

use std::io;

use serde::{Deserialize, Serialize};

/// The class of a [`Refusal`]; one RPC status code each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    NotFound,
    AlreadyExists,
    PermissionDenied,
    InvalidArgument,
    FailedPrecondition,
    ResourceExhausted,
    DeadlineExceeded,
    Internal,
}

/// A request that was not carried out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal in the agent's own words.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Flattens an error and everything that caused it into one line.
    pub(crate) fn from_error(kind: Kind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message = format!("{message}: {}", in_words(error));
            cause = error.source();
        }
        Self { kind, message }
    }

    fn code(&self) -> ttrpc::Code {
        match self.kind {
            Kind::NotFound => ttrpc::Code::NOT_FOUND,
            Kind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
            Kind::PermissionDenied => ttrpc::Code::PERMISSION_DENIED,
            Kind::InvalidArgument => ttrpc::Code::INVALID_ARGUMENT,
            Kind::FailedPrecondition => ttrpc::Code::FAILED_PRECONDITION,
            Kind::ResourceExhausted => ttrpc::Code::RESOURCE_EXHAUSTED,
            Kind::DeadlineExceeded => ttrpc::Code::DEADLINE_EXCEEDED,
            Kind::Internal => ttrpc::Code::INTERNAL,
        }
    }
}

/// For `map_err`: what the machine didn't do.
pub(crate) fn failed(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::new(Kind::Internal, format!("{what}: {error}"))
}

impl From<Refusal> for ttrpc::Error {
    fn from(refusal: Refusal) -> Self {
        Self::RpcStatus(ttrpc::get_status(refusal.code(), refusal.message))
    }
}

/// An error of the system as other runtimes word it, which clients look for: "no such file or directory".
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let Some(code) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) else { return text };
    let words = text.strip_suffix(&format!(" (os error {code})")).unwrap_or(&text);
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open /x")]
    struct Open(#[source] io::Error);

    #[test]
    fn errors_of_the_system_are_worded_as_by_other_runtimes() {
        let said = |source| Refusal::from_error(Kind::Internal, &Open(source)).message;
        assert_eq!(said(io::Error::from_raw_os_error(libc::ENOENT)), "open /x: no such file or directory");
        assert_eq!(said(io::Error::from_raw_os_error(libc::ENOEXEC)), "open /x: exec format error");
        assert_eq!(said(io::Error::other("Odd (os error 2)")), "open /x: Odd (os error 2)");
    }
}
