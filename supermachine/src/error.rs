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
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = said(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = said(error);
        // A transparent error and its source say the same.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// What an error says of itself: of a refusal that came over ttrpc, the message and not its wrapping.
fn said(error: &(dyn Error + 'static)) -> String {
    let boxed = error.downcast_ref::<Box<ttrpc::Error>>().map(AsRef::as_ref);
    match error.downcast_ref().or(boxed) {
        Some(ttrpc::Error::RpcStatus(status)) => status.message().to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the container could not be started")]
    struct Refused(#[source] Box<ttrpc::Error>);

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] Refused);

    #[test]
    fn nothing_is_said_twice() {
        let error = Transparent(Refused(Box::new(ttrpc::Error::Others("no".to_owned()))));
        assert_eq!(chain(&error), "the container could not be started: ttrpc err: no");
    }

    #[test]
    fn of_a_refusal_the_message_is_told() {
        let refusal = || ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::NOT_FOUND, "no such program"));
        assert_eq!(chain(&Refused(Box::new(refusal()))), "the container could not be started: no such program");
        assert_eq!(chain(&refusal()), "no such program");
        assert_eq!(
            chain(&Refused(Box::new(ttrpc::Error::RemoteClosed))),
            "the container could not be started: ttrpc err: remote stream closed"
        );
    }
}
