//! A process's stdio: containerd's end (FIFOs, a file, a logging program) joined to streams into the VM.

mod gauge;
mod logger;
mod target;

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use containerd_shim::io::{IoTasks, Stdio};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::sandbox::{Sandbox, SandboxError};
use gauge::Gauge;
use target::Target;

pub(crate) use logger::LogIdentity;

/// How long Delete waits for output that some other process keeps open.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// After a process's exit: silence for so long means that some other process keeps its output open, or that nobody
/// reads it.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Why a process has no stdio.
#[derive(Debug, Error)]
pub(crate) enum StdioError {
    /// containerd named something that output can't go to.
    #[error("stdio target {uri:?} is not supported: use a FIFO, file:// or binary://")]
    UnknownTarget {
        /// The target as given.
        uri: String,
    },
    /// A FIFO could not be opened.
    #[error("open {path}")]
    Fifo {
        /// The FIFO.
        path: String,
        /// What the system said.
        #[source]
        source: containerd_shim::Error,
    },
    /// A file could not be opened.
    #[error("open {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The logging program could not be run.
    #[error("run logging program {path}")]
    Logger {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No stream into the VM.
    #[error("open a stream into the VM")]
    Stream(#[from] SandboxError),
}

/// The copies that run for one process.
#[derive(Default)]
pub(crate) struct ProcessIo {
    /// Copies from and to FIFOs.
    fifos: IoTasks,
    /// Copies to anything else, and logging programs.
    others: Mutex<JoinSet<()>>,
    /// How far the outputs are.
    gauge: Gauge,
    /// Standard input before [`ProcessIo::open_stdin`]: its FIFO, and where it goes.
    stdin: Mutex<Option<(String, UnixStream)>>,
}

impl ProcessIo {
    /// Opens the outputs that `stdio` names and a stream into the VM for each part, and starts to copy. Returns the
    /// streams' tokens.
    pub(crate) async fn connect(
        &self,
        stdio: &Stdio,
        sandbox: &dyn Sandbox,
        identity: &LogIdentity<'_>,
    ) -> Result<agent_proto::Stdio, StdioError> {
        let mut tokens = agent_proto::Stdio { terminal: stdio.terminal, ..Default::default() };
        if !stdio.stdin.is_empty() {
            let stream = sandbox.open_stream().await?;
            tokens.stdin = stream.token;
            *self.lock_stdin() = Some((stdio.stdin.clone(), stream.socket));
        }
        // A terminal has one output.
        let stderr = if stdio.terminal { "" } else { stdio.stderr.as_str() };
        match Target::parse(&stdio.stdout)? {
            Target::Fifo(_) => {
                tokens.stdout = self.copy_to_fifo(&stdio.stdout, sandbox).await?;
                tokens.stderr = self.copy_to_fifo(stderr, sandbox).await?;
            }
            // The other targets take both outputs, whatever is named for the second.
            Target::File(path) => {
                let file = target::open_file(&path).map_err(|source| StdioError::File { path, source })?;
                tokens.stdout = self.copy(file.try_clone().await, sandbox).await?;
                if !stdio.terminal {
                    tokens.stderr = self.copy(Ok(file), sandbox).await?;
                }
            }
            Target::Logger(program) => {
                let logger = program.run(identity).await?;
                tokens.stdout = self.copy(Ok(logger.stdout), sandbox).await?;
                if !stdio.terminal {
                    tokens.stderr = self.copy(Ok(logger.stderr), sandbox).await?;
                }
                self.spawn(logger::wait(logger.child));
            }
        }
        Ok(tokens)
    }

    async fn copy_to_fifo(&self, path: &str, sandbox: &dyn Sandbox) -> Result<u64, StdioError> {
        if path.is_empty() {
            return Ok(0);
        }
        let Target::Fifo(file) = Target::parse(path)? else {
            return Err(StdioError::UnknownTarget { uri: path.to_owned() });
        };
        let stream = sandbox.open_stream().await?;
        self.fifos.copy_to_fifo(self.gauge.watch(stream.socket), file).map_err(|source| fifo(path, source))?;
        Ok(stream.token)
    }

    async fn copy<W>(&self, to: io::Result<W>, sandbox: &dyn Sandbox) -> Result<u64, StdioError>
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let to = to.map_err(|source| StdioError::File { path: PathBuf::from("a second handle"), source })?;
        let stream = sandbox.open_stream().await?;
        self.spawn(copy(self.gauge.watch(stream.socket), to));
        Ok(stream.token)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// Starts to copy standard input. Only once the process is started: clients send CloseIO as soon as the FIFO has
    /// taken their last byte, and containerd refuses that, for good, until it knows the task.
    pub(crate) fn open_stdin(&self) -> Result<(), StdioError> {
        let Some((path, stream)) = self.lock_stdin().take() else { return Ok(()) };
        self.fifos.copy_from_fifo(&path, stream).map_err(|source| fifo(&path, source))
    }

    fn lock_stdin(&self) -> MutexGuard<'_, Option<(String, UnixStream)>> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CloseIO: the process sees end of file once what containerd's writers left is read.
    pub(crate) fn close_stdin(&self) {
        self.fifos.close_input();
    }

    /// Waits until what a process that has exited left behind is delivered. To be done before its exit is told: some
    /// clients, among them nerdctl's log writer, stop to read at that moment.
    pub(crate) async fn settle(&self) {
        let settled = self.gauge.settled(SETTLED_AFTER);
        if tokio::time::timeout(DRAIN_TIMEOUT, settled).await.is_err() {
            debug!("output goes on {DRAIN_TIMEOUT:?} after the exit");
        }
    }

    /// Whether all output is delivered.
    pub(crate) fn is_delivered(&self) -> bool {
        self.gauge.is_over()
    }

    /// Waits for the first byte of output, and tells when it was read. None if there is none.
    pub(crate) fn first_output(&self) -> impl Future<Output = Option<Instant>> + Send + 'static {
        self.gauge.first_byte()
    }

    /// Waits until all output is delivered, at most [`DRAIN_TIMEOUT`], and cuts what is left.
    pub(crate) async fn drain(&self) {
        let mut others = self.take_others();
        let outputs = async { while others.join_next().await.is_some() {} };
        let (_, drained) = tokio::join!(self.fifos.shutdown(), tokio::time::timeout(DRAIN_TIMEOUT, outputs));
        if drained.is_err() {
            warn!("output was not taken within {DRAIN_TIMEOUT:?} and is cut");
            others.shutdown().await;
        }
    }

    /// Stops all copies at once, for a process that failed to start.
    pub(crate) async fn abort(&self) {
        drop(self.lock_stdin().take());
        let mut others = self.take_others();
        tokio::join!(self.fifos.abort(), others.shutdown());
    }

    fn take_others(&self) -> JoinSet<()> {
        std::mem::take(&mut self.others.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for ProcessIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessIo").finish_non_exhaustive()
    }
}

fn fifo(path: &str, source: containerd_shim::Error) -> StdioError {
    StdioError::Fifo { path: path.to_owned(), source }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if let Err(error) = tokio::io::copy(&mut from, &mut to).await {
        debug!("output ends early: {error}");
    }
    if let Err(error) = to.flush().await {
        debug!("output is incomplete: {error}");
    }
}

/// A connection into the VM for one part of a process's stdio.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What the agent knows it by.
    pub(crate) token: u64,
    /// The host's end.
    pub(crate) socket: UnixStream,
}

#[cfg(test)]
mod tests;
