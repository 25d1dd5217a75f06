//! One process of a container, from created to exited.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::container::{Order, Progress, TerminalSize};
use crate::descriptor::Descriptor;
use crate::packet;
use crate::reaper::{Exit, ExitWatch};
use crate::refusal::{Kind, Refusal};

/// A process that was made. It is *created* while the agent holds its control socket, *running* after that, and
/// *exited* when the reaper says so.
#[derive(Debug)]
pub(super) struct Process {
    pid: i32,
    exit: ExitWatch,
    control: Mutex<Option<Descriptor>>,
    terminal: Option<Arc<Descriptor>>,
}

impl Process {
    pub(super) fn new(pid: i32, exit: ExitWatch, control: Descriptor, terminal: Option<Arc<Descriptor>>) -> Self {
        Self { pid, exit, control: Mutex::new(Some(control)), terminal }
    }

    /// Its id in the guest's root namespace.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.exit()
    }

    /// Lets it execute its program; answers when it did, or why it couldn't.
    pub(super) async fn start(&self) -> Result<(), Refusal> {
        let Some(control) = self.control.lock().await.take() else {
            return Err(Refusal::new(Kind::FailedPrecondition, "the process was started already"));
        };
        if packet::send(&control, &Order::Go, &[], &[]).is_err() {
            return Err(Refusal::new(Kind::FailedPrecondition, "the process ended before it was started"));
        }
        match hear(&control).await? {
            // The socket closed at execve.
            None => Ok(()),
            Some((Progress::Failed(refusal), _)) => {
                // It ends with its report; whoever deletes it next must not find it running.
                self.wait().await?;
                Err(refusal)
            }
            Some((Progress::Ready, _)) => Err(Refusal::new(Kind::Internal, "the process reported twice")),
        }
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> Result<Exit, Refusal> {
        self.exit.wait().await.ok_or_else(|| Refusal::new(Kind::Internal, "the reaper is gone"))
    }

    /// Sends a signal. Its id can't have been used again: it is only given back by the reaper, which tells first.
    pub(super) fn signal(&self, signal: u32) -> Result<(), Refusal> {
        if self.exit().is_some() {
            return Err(Refusal::new(Kind::NotFound, "the process has exited"));
        }
        send_signal(self.pid, signal)
    }

    /// Changes the size of its terminal; without one, nothing happens.
    pub(super) fn resize(&self, size: TerminalSize) -> Result<(), Refusal> {
        let Some(terminal) = &self.terminal else { return Ok(()) };
        size.apply(&**terminal).map_err(|error| Refusal::new(Kind::Internal, format!("resize the terminal: {error}")))
    }

    /// Whether it waits for [`start`](Self::start).
    pub(super) async fn is_created(&self) -> bool {
        self.control.lock().await.is_some()
    }
}

/// The next message of a new process, with a descriptor if one came along; `None` when it closed its socket.
pub(super) async fn hear(control: &Descriptor) -> Result<Option<(Progress, Option<std::os::fd::OwnedFd>)>, Refusal> {
    let failed = |error: std::io::Error| Refusal::new(Kind::Internal, format!("hear from the process: {error}"));
    let packet = match control.when_readable(|fd| packet::receive(fd)).await {
        // It died with something unread.
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => None,
        result => result.map_err(failed)?,
    };
    let Some(mut packet) = packet else { return Ok(None) };
    let (progress, _) = packet.decode::<Progress>().map_err(failed)?;
    Ok(Some((progress, packet.descriptors.pop())))
}

/// Sends a signal to a process by its id.
pub(super) fn send_signal(pid: i32, signal: u32) -> Result<(), Refusal> {
    let number = i32::try_from(signal).ok().filter(|number| (1..=libc::SIGRTMAX()).contains(number));
    let Some(number) = number else {
        return Err(Refusal::new(Kind::InvalidArgument, format!("{signal} is no signal")));
    };
    crate::sys::kill(pid, number).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => Refusal::new(Kind::NotFound, "the process has exited"),
        _ => Refusal::new(Kind::Internal, format!("send signal {number}: {error}")),
    })
}
