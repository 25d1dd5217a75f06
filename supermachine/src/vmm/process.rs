//! Spawning a VMM, watching it, ending it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;
use vmm_api::{ControlError, ControlSocket, Reply, Request};

use crate::console::last_lines;
use crate::launch::Attachments;
use crate::vmm::control::{Answer, Control, Drained, VmmError, pollable};
use crate::vmm::exit::{Exit, ExitReason, Exited};

/// Lines of the guest's console that go into messages.
const CONSOLE_LINES: usize = 5;
/// How long a VMM may take to end when told to, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// A VMM can't be spawned.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its control socket.
    #[error("no control socket can be made")]
    Socket(#[source] ControlError),
    /// The program.
    #[error("cannot run {}; run `make install`, or set `paths.vmm`", path.display())]
    Exec {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its log, or watching it.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl SpawnError {
    pub(crate) fn log(source: io::Error) -> Self {
        Self::Io { action: "make the virtual machine monitor's log", source }
    }
}

/// Where a VMM and its guest write.
#[derive(Debug)]
pub(crate) struct Logs {
    /// The VMM's standard error.
    pub(crate) vmm: File,
    /// The guest's console, if there is a guest.
    pub(crate) console: Option<File>,
}

/// A running VMM. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    control: Control,
    exited: Exited,
}

impl Process {
    /// Starts a VMM: the control socket is its standard input, nothing else is inherited. Needs a tokio runtime.
    pub(crate) fn spawn(program: &Path, logs: Logs) -> Result<Self, SpawnError> {
        let (ours, theirs) = ControlSocket::pair().map_err(SpawnError::Socket)?;
        let stderr = logs.vmm.try_clone().map_err(SpawnError::log)?;
        let child = Command::new(program)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(stderr))
            // A terminal's signals are for the client, not for its machines.
            .process_group(0)
            .spawn()
            .map_err(|source| SpawnError::Exec { path: program.to_owned(), source })?;
        let pid = Pid::from_child(&child);
        let watch_failed = |source| SpawnError::Io { action: "watch the virtual machine monitor", source };
        let (control, drained) = Control::new(ours).map_err(watch_failed)?;
        // Not through tokio's or the standard library's `wait`: the embedding program may reap children itself.
        let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| watch_failed(error.into()))?;
        let pidfd = Arc::new(pollable(pidfd).map_err(watch_failed)?);
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(watch(Arc::clone(&pidfd), logs, drained, sender));
        Ok(Self { pid, pidfd, control, exited: Exited(receiver) })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(crate) fn exited(&self) -> &Exited {
        &self.exited
    }

    /// Sends a request without waiting for the answer.
    pub(crate) fn send(&self, request: &Request, attachments: &Attachments<'_>) -> Result<Answer, VmmError> {
        self.control.send(request, attachments)
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        attachments: &Attachments<'_>,
        within: Duration,
    ) -> Result<Reply, VmmError> {
        let answer = self.send(request, attachments)?;
        self.answer(answer, within).await
    }

    /// Waits for an answer; a refusal is an error.
    pub(crate) async fn answer(&self, answer: Answer, within: Duration) -> Result<Reply, VmmError> {
        match timeout(within, answer).await {
            Ok(Ok(Reply::Failed(failure))) => Err(VmmError::Refused { kind: failure.kind, message: failure.message }),
            Ok(Ok(reply)) => Ok(reply),
            // The socket was closed: the process is about to be gone.
            Ok(Err(_closed)) => Err(VmmError::Died { exit: self.death().await }),
            Err(_elapsed) => Err(VmmError::Silent { seconds: within.as_secs() }),
        }
    }

    /// Waits for the end of a process that has closed its control socket, and helps if it doesn't come.
    pub(crate) async fn death(&self) -> Arc<Exit> {
        if let Ok(exit) = timeout(STOP_WITHIN, self.exited.wait()).await {
            return exit;
        }
        self.kill();
        self.exited.wait().await
    }

    /// Tells the VMM to end and waits until it has.
    pub(crate) async fn stop(&self) -> Arc<Exit> {
        // A VMM that can't be told is killed below.
        let _told = self.send(&Request::Shutdown, &Attachments::default());
        self.death().await
    }

    pub(crate) fn kill(&self) {
        // It may be gone already.
        let _gone = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reaps the process and says how it ended, after everything that it had to say itself.
async fn watch(pidfd: Arc<AsyncFd<OwnedFd>>, logs: Logs, drained: Drained, sender: watch::Sender<Option<Arc<Exit>>>) {
    let reason = loop {
        let Ok(mut ready) = pidfd.readable().await else { break ExitReason::Unknown };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), options) {
            Ok(Some(status)) => {
                break match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => ExitReason::from_code(code),
                    (None, Some(signal)) => ExitReason::Killed(signal),
                    (None, None) => ExitReason::Unknown,
                };
            }
            Ok(None) | Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
            Err(_reaped) => break ExitReason::Unknown,
        }
    };
    // Its end of the socket is closed, unless somebody else has it.
    let _drained = timeout(STOP_WITHIN, drained).await;
    let exit = Exit {
        reason,
        last_words: last_lines(&logs.vmm, 1).pop(),
        console: logs.console.map(|console| last_lines(&console, CONSOLE_LINES)).unwrap_or_default(),
    };
    // Nobody may be left who wants to know.
    let _unheard = sender.send(Some(Arc::new(exit)));
}
