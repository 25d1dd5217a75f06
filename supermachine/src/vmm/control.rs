//! Requests to a VMM and its replies. Replies come in the order of the requests, so that requests may be sent without
//! waiting.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vmm_api::{ControlError, ControlSocket, FailureKind, Reply, Request};

use crate::error::ErrorKind;
use crate::launch::Attachments;
use crate::vmm::exit::Exit;

/// The VMM didn't do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The request can't be sent.
    #[error("the virtual machine monitor can't be reached")]
    Control(#[source] ControlError),
    /// It refused, and said why.
    #[error("{message}")]
    Refused {
        /// What kind of fault.
        kind: FailureKind,
        /// What it says.
        message: String,
    },
    /// It ended without an answer.
    #[error("the virtual machine monitor ended: {exit}")]
    Died {
        /// How.
        exit: Arc<Exit>,
    },
    /// It gave no answer in time.
    #[error("the virtual machine monitor gave no answer within {seconds} s")]
    Silent {
        /// How long it had.
        seconds: u64,
    },
    /// Its answer doesn't belong to the request.
    #[error("the virtual machine monitor answered with something else; run `make install` to have matching versions")]
    Unexpected,
}

impl VmmError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { kind: FailureKind::Kvm | FailureKind::BadKernel, .. } | Self::Unexpected => {
                ErrorKind::FailedPrecondition
            }
            Self::Refused { kind: FailureKind::Invalid, .. } => ErrorKind::Internal,
            Self::Refused { .. } | Self::Control(_) | Self::Died { .. } => ErrorKind::Unavailable,
            Self::Silent { .. } => ErrorKind::DeadlineExceeded,
        }
    }
}

/// Lets tokio wait for a descriptor.
#[expect(
    deprecated,
    reason = "the replacement is unsafe because a type could close its descriptor early; an owned one doesn't"
)]
pub(crate) fn pollable<T: AsRawFd + Into<OwnedFd>>(fd: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::new(fd)
}

type Pending = Arc<Mutex<VecDeque<oneshot::Sender<Reply>>>>;

/// A reply to come.
pub(crate) type Answer = oneshot::Receiver<Reply>;

/// Resolves, with an error, once no reply comes any more.
pub(super) type Drained = oneshot::Receiver<Infallible>;

/// Our end of the control socket.
#[derive(Debug)]
pub(crate) struct Control {
    socket: Arc<AsyncFd<ControlSocket>>,
    pending: Pending,
    reader: JoinHandle<()>,
}

impl Control {
    /// Takes over a socket. Needs a tokio runtime.
    pub(super) fn new(socket: ControlSocket) -> std::io::Result<(Self, Drained)> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = Arc::new(pollable(socket)?);
        let pending = Pending::default();
        let (reading, drained) = oneshot::channel();
        let reader = tokio::spawn(read_replies(Arc::clone(&socket), Arc::clone(&pending), reading));
        Ok((Self { socket, pending, reader }, drained))
    }

    /// Sends a request. The answer may be awaited or dropped.
    pub(crate) fn send(&self, request: &Request, attachments: &Attachments<'_>) -> Result<Answer, VmmError> {
        let (sender, answer) = oneshot::channel();
        // Held over sending, so that the queue has the order of the socket.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        // A full buffer is an error: it holds a hundred requests that the VMM hasn't cared to read.
        self.socket.get_ref().send(request, &attachments.0).map_err(VmmError::Control)?;
        pending.push_back(sender);
        Ok(answer)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The VMM sees the end now, not when the reader's task has been unwound.
        let _gone = rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Both);
        self.reader.abort();
    }
}

async fn read_replies(socket: Arc<AsyncFd<ControlSocket>>, pending: Pending, _reading: oneshot::Sender<Infallible>) {
    while let Ok(mut ready) = socket.readable().await {
        match socket.get_ref().receive::<Reply>() {
            Ok(packet) => {
                let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                deliver(packet.message, waiting);
            }
            Err(ControlError::Socket(Errno::AGAIN)) => ready.clear_ready(),
            Err(ControlError::Closed) => break,
            Err(error) => {
                tracing::warn!(error = %crate::error::chain(&error), "a reply of the virtual machine monitor is lost");
                break;
            }
        }
    }
    // Whoever waits learns that nothing comes.
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Hands a reply to whoever waits for it; a refusal that nobody waits for is logged.
fn deliver(reply: Reply, waiting: Option<oneshot::Sender<Reply>>) {
    let unclaimed = match waiting {
        Some(sender) => sender.send(reply).err(),
        None => Some(reply),
    };
    if let Some(Reply::Failed(failure)) = unclaimed {
        tracing::warn!(message = failure.message, "the virtual machine monitor refused a request");
    }
}
