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
    /// Says why, as the last words that callers look for, and ends the process with all its threads.
    pub fn end_process(&self) -> ! {
        eprintln!("supermachine-vmm: {self}");
        std::process::exit(self.code())
    }

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

/// Makes a panic in any thread the end of the process: a VM that lost one of its threads must not look alive.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| Outcome::Internal(panic.to_string().replace('\n', " ")).end_process()));
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "OUTCOME_TEST_CHILD";

    /// The test program runs this test again as a process of its own, which is the one that has to end.
    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_says_why() {
        if std::env::var_os(CHILD).is_some() {
            end_on_panic();
            let lost = std::thread::spawn(|| panic!("the ring is bent"));
            // Never returns: joining a thread that panicked would, if nothing ended the process.
            let joined = lost.join();
            loop {
                std::thread::park();
                assert!(joined.is_err());
            }
        }
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "outcome::tests::a_panic_in_any_thread_ends_the_process_and_says_why", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.code(), Some(exit_code::INTERNAL));
        let words = String::from_utf8_lossy(&child.stderr).into_owned();
        assert!(words.contains("internal fault") && words.contains("the ring is bent"), "{words}");
    }
}
