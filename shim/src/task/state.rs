//! The life of a process as containerd sees it. Pure: no I/O, no clock.
//!
//! ```text
//! Created ──start──▶ Running ──exit──▶ Stopped ──delete──▶ Deleted
//!    │                │     ▲             ▲                    ▲
//!    │              pause resume          │                    │
//!    │                ▼     │             │                    │
//!    │         Pausing ──▶ Paused ──exit──┤                    │
//!    ├──────────exit (killed, failed)─────┘                    │
//!    └──────────────────────delete─────────────────────────────┘
//! ```
//!
//! A container is paused as a whole; its init's phase says so.

use std::time::SystemTime;

use thiserror::Error;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 0-255, or 128 + signal.
    pub(crate) status: u32,
    /// Host time.
    pub(crate) at: SystemTime,
}

/// Where in its life a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Known, and not executing its program yet.
    Created,
    /// Executing.
    Running,
    /// About to be paused.
    Pausing,
    /// Stopped where it is, until it is resumed.
    Paused,
    /// Ended.
    Stopped(Exit),
    /// Ended and forgotten; kept for whoever still waits.
    Deleted(Exit),
}

/// A request that the process's phase rules out.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum StateError {
    /// Start of a process that was started before.
    #[error("the process was started already")]
    Started,
    /// The process has not been started.
    #[error("the process has not been started")]
    NotStarted,
    /// Start of an exec whose container doesn't run.
    #[error("the container's init is not running")]
    NotRunning,
    /// The process has ended.
    #[error("the process has exited")]
    Exited,
    /// The container is paused.
    #[error("the container is paused: resume it first")]
    Paused,
    /// Resume of a container that isn't paused.
    #[error("the container is not paused")]
    NotPaused,
    /// Delete of a running process.
    #[error("the process is running: stop it first")]
    Running,
    /// The process was deleted.
    #[error("the process was deleted")]
    Deleted,
}

impl Phase {
    /// Whether Start is possible.
    pub(crate) fn may_start(self) -> Result<(), StateError> {
        match self {
            Self::Created => Ok(()),
            Self::Running | Self::Pausing | Self::Paused => Err(StateError::Started),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether a signal can reach the process: a container's init can be killed before it was started, an exec, which
    /// exists nowhere until then, can't.
    pub(crate) fn may_signal(self, is_exec: bool) -> Result<(), StateError> {
        match self {
            Self::Created if is_exec => Err(StateError::NotStarted),
            Self::Created | Self::Running | Self::Pausing | Self::Paused => Ok(()),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether further processes may be registered in the container of this init.
    pub(crate) fn may_exec(self) -> Result<(), StateError> {
        match self {
            Self::Created | Self::Running => Ok(()),
            Self::Pausing | Self::Paused => Err(StateError::Paused),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether they may be started.
    pub(crate) fn may_start_execs(self) -> Result<(), StateError> {
        match self {
            Self::Running => Ok(()),
            Self::Pausing | Self::Paused => Err(StateError::Paused),
            Self::Created | Self::Stopped(_) | Self::Deleted(_) => Err(StateError::NotRunning),
        }
    }

    /// Whether the container of this init can be paused.
    pub(crate) fn may_pause(self) -> Result<(), StateError> {
        match self {
            Self::Running => Ok(()),
            Self::Pausing | Self::Paused => Err(StateError::Paused),
            Self::Created => Err(StateError::NotStarted),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether the container of this init can be resumed.
    pub(crate) fn may_resume(self) -> Result<(), StateError> {
        match self {
            Self::Paused => Ok(()),
            Self::Created | Self::Running | Self::Pausing => Err(StateError::NotPaused),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether the limits of the container of this init can be changed.
    pub(crate) fn may_update(self) -> Result<(), StateError> {
        match self {
            Self::Created | Self::Running | Self::Pausing | Self::Paused => Ok(()),
            Self::Stopped(_) => Err(StateError::Exited),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Whether Delete is possible.
    pub(crate) fn may_delete(self) -> Result<(), StateError> {
        match self {
            Self::Created | Self::Stopped(_) => Ok(()),
            Self::Running | Self::Pausing | Self::Paused => Err(StateError::Running),
            Self::Deleted(_) => Err(StateError::Deleted),
        }
    }

    /// Moves on from one phase to another; not if something else was seen first.
    pub(crate) fn pass(&mut self, from: Self, to: Self) -> bool {
        let moved = *self == from;
        if moved {
            *self = to;
        }
        moved
    }

    /// The process ended. The first exit counts.
    pub(crate) fn exited(&mut self, exit: Exit) -> bool {
        let moved = self.exit().is_none();
        if moved {
            *self = Self::Stopped(exit);
        }
        moved
    }

    /// The process was deleted; `never_ran` is the exit of one that was not started.
    pub(crate) fn deleted(&mut self, never_ran: Exit) -> Exit {
        let exit = self.exit().unwrap_or(never_ran);
        *self = Self::Deleted(exit);
        exit
    }

    /// How it ended, if it has.
    pub(crate) fn exit(self) -> Option<Exit> {
        match self {
            Self::Created | Self::Running | Self::Pausing | Self::Paused => None,
            Self::Stopped(exit) | Self::Deleted(exit) => Some(exit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(status: u32) -> Exit {
        Exit { status, at: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn ordinary_life() {
        let mut phase = Phase::Created;
        phase.may_start().unwrap();
        assert!(phase.pass(Phase::Created, Phase::Running));
        assert_eq!(phase.may_start(), Err(StateError::Started));
        assert_eq!(phase.may_delete(), Err(StateError::Running));
        phase.may_signal(true).unwrap();
        assert!(phase.exited(exit(3)));
        assert_eq!(phase.may_signal(false), Err(StateError::Exited));
        assert_eq!(phase.may_start(), Err(StateError::Exited));
        phase.may_delete().unwrap();
        assert_eq!(phase.deleted(exit(9)), exit(3));
        assert_eq!(phase.may_delete(), Err(StateError::Deleted));
        assert_eq!(phase.exit(), Some(exit(3)));
    }

    #[test]
    fn exit_before_start_wins() {
        let mut phase = Phase::Created;
        assert!(phase.exited(exit(137)));
        assert!(!phase.pass(Phase::Created, Phase::Running));
        assert!(!phase.exited(exit(0)));
        assert_eq!(phase, Phase::Stopped(exit(137)));
    }

    #[test]
    fn paused_container_takes_signals_and_limits_but_no_processes() {
        let mut phase = Phase::Running;
        phase.may_pause().unwrap();
        assert_eq!(phase.may_resume(), Err(StateError::NotPaused));
        for paused in [Phase::Pausing, Phase::Paused] {
            assert_eq!((phase.may_exec(), phase.may_start_execs()), (Ok(()), Ok(())));
            assert!(phase.pass(phase, paused));
            assert_eq!(phase.may_pause(), Err(StateError::Paused));
            assert_eq!((phase.may_exec(), phase.may_start_execs()), (Err(StateError::Paused), Err(StateError::Paused)));
            assert_eq!((phase.may_signal(false), phase.may_update()), (Ok(()), Ok(())));
            assert_eq!(phase.may_delete(), Err(StateError::Running));
            phase.pass(paused, Phase::Running);
        }
        phase = Phase::Paused;
        phase.may_resume().unwrap();
        assert!(phase.exited(exit(137)));
        assert_eq!((phase.may_resume(), phase.may_update()), (Err(StateError::Exited), Err(StateError::Exited)));
        phase.may_delete().unwrap();
        assert_eq!((Phase::Created.may_pause(), Phase::Created.may_update()), (Err(StateError::NotStarted), Ok(())));
    }

    #[test]
    fn created_init_takes_signals_and_created_exec_does_not() {
        assert_eq!(Phase::Created.may_signal(false), Ok(()));
        assert_eq!(Phase::Created.may_signal(true), Err(StateError::NotStarted));
    }

    #[test]
    fn never_started_process_is_deleted_with_the_given_exit() {
        let mut phase = Phase::Created;
        phase.may_delete().unwrap();
        assert_eq!(phase.deleted(exit(0)), exit(0));
    }
}
