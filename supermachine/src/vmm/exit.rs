//! How a VMM process ended.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use vmm_api::exit_code;

/// What the kernel ends a process with that breaks its system call filter (`seccomp(2)`).
const SIGSYS: i32 = 31;

/// Why there is no VM any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was told to stop.
    Stopped,
    /// The guest powered off, reset or halted.
    GuestGone,
    /// The guest could not be run any further.
    GuestCrashed,
    /// The VM could not be started.
    StartFailed,
    /// A fault of the VMM itself, or an exit code that it doesn't have.
    Internal,
    /// A signal ended the VMM: the number.
    Killed(i32),
    /// Someone else reaped the process.
    Unknown,
}

impl ExitReason {
    pub(crate) fn from_code(code: i32) -> Self {
        match code {
            exit_code::STOPPED => Self::Stopped,
            exit_code::GUEST_GONE => Self::GuestGone,
            exit_code::GUEST_CRASHED => Self::GuestCrashed,
            exit_code::START_FAILED => Self::StartFailed,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it was told to stop"),
            Self::GuestGone => f.write_str("the guest powered off or reset"),
            Self::GuestCrashed => f.write_str("the guest could not be run any further"),
            Self::StartFailed => f.write_str("the virtual machine could not be started"),
            Self::Internal => f.write_str("the virtual machine monitor failed"),
            Self::Killed(SIGSYS) => {
                f.write_str("the virtual machine monitor was killed for a system call that it may not make (signal 31)")
            }
            Self::Killed(signal) => write!(f, "the virtual machine monitor was killed by signal {signal}"),
            Self::Unknown => f.write_str("the virtual machine monitor is gone"),
        }
    }
}

/// The end of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why.
    pub reason: ExitReason,
    /// The VMM's last words, if it had any.
    pub last_words: Option<String>,
    /// Last lines of the guest's console.
    pub console: Vec<String>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        if let Some(words) = &self.last_words {
            write!(f, " ({words})")?;
        }
        if !self.console.is_empty() {
            write!(f, "; the guest's last lines: {}", self.console.join(" | "))?;
        }
        Ok(())
    }
}

/// Tells when a VM is gone.
#[derive(Clone, Debug)]
pub struct Exited(pub(crate) watch::Receiver<Option<Arc<Exit>>>);

impl Exited {
    /// Waits until the VM is gone; returns at once if it is. Any number of callers.
    pub async fn wait(&self) -> Arc<Exit> {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            Err(_closed) => None,
        }
        .unwrap_or_else(|| Arc::new(Exit { reason: ExitReason::Unknown, last_words: None, console: Vec::new() }))
    }

    /// The end, if it has come.
    pub fn now(&self) -> Option<Arc<Exit>> {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_filter_is_told_apart_from_other_signals() {
        assert!(ExitReason::Killed(SIGSYS).to_string().contains("system call"));
        assert_eq!(ExitReason::Killed(9).to_string(), "the virtual machine monitor was killed by signal 9");
    }
}
