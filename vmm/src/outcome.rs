//! How a VMM process ends.

use vmm_api::exit_code;

use crate::vcpu::GuestEnd;

/// Why the process ends.
#[derive(Debug)]
pub enum Outcome {
    /// It was told to, or the control socket was closed.
    Stopped,
    /// The guest ended.
    Guest(GuestEnd),
    /// The VM could not be started; the reply said why.
    StartFailed(String),
    /// A fault of the VMM or of its host.
    Internal(String),
}

impl Outcome {
    /// The process's exit code.
    pub fn code(&self) -> i32 {
        match self {
            Self::Stopped => exit_code::STOPPED,
            Self::Guest(GuestEnd::PoweredOff | GuestEnd::Reset) => exit_code::GUEST_GONE,
            Self::Guest(GuestEnd::Crashed(_)) => exit_code::GUEST_CRASHED,
            Self::StartFailed(_) => exit_code::START_FAILED,
            Self::Guest(GuestEnd::Fault(_)) | Self::Internal(_) => exit_code::INTERNAL,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped on request"),
            Self::Guest(GuestEnd::PoweredOff) => f.write_str("the guest powered off"),
            Self::Guest(GuestEnd::Reset) => f.write_str("the guest reset itself"),
            Self::Guest(GuestEnd::Crashed(why)) => write!(f, "the guest can't go on: {why}"),
            Self::StartFailed(why) => write!(f, "start failed: {why}"),
            Self::Guest(GuestEnd::Fault(why)) | Self::Internal(why) => write!(f, "internal fault: {why}"),
        }
    }
}

/// An error and its causes, outermost first, joined by `: `.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
