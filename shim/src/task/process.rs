//! One process of a container: its init, or an exec.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use containerd_shim::io::Stdio;
use tokio::sync::{Mutex as TurnMutex, MutexGuard as TurnGuard, watch};

use super::{Exit, Phase, StateError};
use crate::io::ProcessIo;

/// What an exec is to run.
#[derive(Clone, Debug)]
pub(crate) struct ExecSpec {
    /// Its id within the container.
    pub(crate) id: String,
    /// OCI `process` object, as JSON.
    pub(crate) process: Vec<u8>,
}

/// A process, from its registration until Delete.
#[derive(Debug)]
pub(crate) struct Process {
    /// None for the container's init.
    pub(crate) exec: Option<ExecSpec>,
    /// What containerd named for it.
    pub(crate) stdio: Stdio,
    /// Its running copies.
    pub(crate) io: ProcessIo,
    phase: watch::Sender<Phase>,
    /// Held while a change of phase and its event are on their way, so that start is told before exit, exit before
    /// delete.
    turn: TurnMutex<()>,
    guest_pid: AtomicU32,
    /// Terminal size asked for before the start: columns, rows.
    size: Mutex<(u32, u32)>,
}

impl Process {
    /// A process that isn't running yet.
    pub(crate) fn new(exec: Option<ExecSpec>, stdio: Stdio) -> Self {
        Self {
            exec,
            stdio,
            io: ProcessIo::default(),
            phase: watch::Sender::new(Phase::Created),
            turn: TurnMutex::default(),
            guest_pid: AtomicU32::new(0),
            size: Mutex::default(),
        }
    }

    /// Its exec id; empty for init.
    pub(crate) fn exec_id(&self) -> &str {
        self.exec.as_ref().map_or("", |exec| exec.id.as_str())
    }

    /// Whether it is an exec.
    pub(crate) fn is_exec(&self) -> bool {
        self.exec.is_some()
    }

    /// Where it is in its life.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits for the turn to change the phase and publish the event that goes with it.
    pub(crate) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Notes the start. False if its exit was seen first.
    pub(crate) fn set_started(&self) -> bool {
        self.pass(Phase::Created, Phase::Running)
    }

    /// Moves on from one phase to another; not if something else was seen first.
    pub(crate) fn pass(&self, from: Phase, to: Phase) -> bool {
        self.phase.send_if_modified(|phase| phase.pass(from, to))
    }

    /// Notes the end. False if one is known already.
    pub(crate) fn set_exited(&self, exit: Exit) -> bool {
        self.phase.send_if_modified(|phase| phase.exited(exit))
    }

    /// Notes the Delete, and returns the exit to report.
    pub(crate) fn set_deleted(&self, never_ran: Exit) -> Exit {
        let mut exit = never_ran;
        self.phase.send_modify(|phase| exit = phase.deleted(never_ran));
        exit
    }

    /// Waits until it has ended. At once if it has.
    pub(crate) async fn ended(&self) -> Result<Exit, StateError> {
        let mut phase = self.phase.subscribe();
        // The sender is this process, which outlives the call.
        let ended = phase.wait_for(|phase| phase.exit().is_some()).await;
        ended.ok().and_then(|phase| phase.exit()).ok_or(StateError::Deleted)
    }

    /// Its process id in the guest; 0 before it has one.
    pub(crate) fn guest_pid(&self) -> u32 {
        self.guest_pid.load(Ordering::Relaxed)
    }

    pub(crate) fn set_guest_pid(&self, pid: u32) {
        self.guest_pid.store(pid, Ordering::Relaxed);
    }

    /// Terminal size to start with: columns and rows, 0 for the default.
    pub(crate) fn size(&self) -> (u32, u32) {
        *self.lock_size()
    }

    pub(crate) fn set_size(&self, columns: u32, rows: u32) {
        *self.lock_size() = (columns, rows);
    }

    fn lock_size(&self) -> MutexGuard<'_, (u32, u32)> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
