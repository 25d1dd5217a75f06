//! What is on the disk of a VM, brought to the host. The guest is hostile: what it sends is bounded and made files of
//! by a process that holds nothing else.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_proto::export_upper_response::State;
use agent_proto::{AgentClient, ExportUpperRequest, RootFilesystem};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use ttrpc::context::Context;

use super::tar::{BUFFER_BYTES, STALL, Tar, TarError};
use crate::error::ErrorKind;
use crate::vm::{Stream, StreamError};

/// An archive may be longer than the disk by this: small files take more room in it.
const LONGER: u64 = 2;
/// And by this, so that small disks have room too.
const AT_LEAST_BYTES: u64 = 64 << 20;
/// What tar may take of the host's memory, which grows with directories and holes.
const TAR_MEMORY_BYTES: u64 = 1 << 30;

/// What came of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exported {
    /// The directory holds all.
    Written {
        /// Names what it holds, as long as the VM runs.
        generation: u64,
    },
    /// The layer is as known: there is no directory.
    AsKnown,
    /// No container has ever written to the disk: there is no directory.
    Unused,
}

/// The writable layer was not exported. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No stream.
    #[error("the writable layer can't be had from the virtual machine")]
    Stream(#[source] StreamError),
    /// The agent refused, or is gone.
    #[error("the guest's agent did not give the writable layer")]
    Agent(#[source] Box<ttrpc::Error>),
    /// The stream broke.
    #[error("the stream with the writable layer broke")]
    Broken(#[source] io::Error),
    /// The guest sends too much.
    #[error("the guest sends more than its disk can hold: {limit} bytes")]
    TooLong {
        /// What it may send.
        limit: u64,
    },
    /// The guest sends nothing.
    #[error("the guest sent nothing of the writable layer for {} s", within.as_secs())]
    Stalled {
        /// How long it had.
        within: Duration,
    },
    /// Where it was to go.
    #[error("cannot make {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Making files of it.
    #[error("the writable layer can't be unpacked in {}", path.display())]
    Unpack {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: TarError,
    },
}

impl ExportError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Stream(error) => error.kind(),
            Self::Agent(error) if matches!(**error, ttrpc::Error::RpcStatus(_)) => ErrorKind::Internal,
            Self::Agent(_) | Self::Broken(_) => ErrorKind::Unavailable,
            Self::Stalled { .. } => ErrorKind::DeadlineExceeded,
            Self::Unpack { source: TarError::Missing, .. } => ErrorKind::FailedPrecondition,
            Self::TooLong { .. } | Self::Directory { .. } | Self::Unpack { .. } => ErrorKind::Internal,
        }
    }
}

/// An export that is about to begin. It goes on without the VM's handle, and fails when the VM ends.
#[derive(Debug)]
pub struct Exporter {
    agent: Asked,
    stream: Stream,
    request: ExportUpperRequest,
}

impl Exporter {
    /// Of what has this root file system, unless it is of the `known` generation; 0 for none.
    pub(crate) fn new(agent: AgentClient, stream: Stream, rootfs: &RootFilesystem, known: u64) -> Self {
        let request = ExportUpperRequest {
            stream: stream.token,
            upper_offset_bytes: rootfs.upper_offset_bytes,
            upper_bytes: rootfs.upper_bytes,
            upper_directory: rootfs.upper_directory.clone(),
            known,
            ..Default::default()
        };
        Self { agent: Asked(agent), stream, request }
    }

    /// Makes `directory`, with everything that the layer holds.
    pub async fn into_directory(self, directory: &Path) -> Result<Exported, ExportError> {
        let Self { agent, stream, request } = self;
        let limit = request.upper_bytes.saturating_mul(LONGER).max(AT_LEAST_BYTES);
        let target = Target(Some(directory.to_owned()));
        let received = receive(stream.socket, directory, Bounds { limit, within: STALL });
        let answered = async {
            let answer = agent.0.export_upper(Context::default(), &request).await;
            answer.map_err(|error| ExportError::Agent(Box::new(error)))
        };
        tokio::pin!(received, answered);
        let answer = tokio::select! {
            received = &mut received => {
                received?;
                timeout(STALL, answered).await.unwrap_or(Err(ExportError::Stalled { within: STALL }))?
            }
            answer = &mut answered => {
                let answer = answer?;
                received.await?;
                answer
            }
        };
        Ok(match answer.state.enum_value_or_default() {
            State::WRITTEN => {
                target.keep();
                Exported::Written { generation: answer.generation }
            }
            State::AS_KNOWN => Exported::AsKnown,
            State::UNUSED => Exported::Unused,
        })
    }
}

struct Asked(AgentClient);

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentClient")
    }
}

/// Removed with everything in it unless it is kept.
struct Target(Option<PathBuf>);

impl Target {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "what is left of an export stays until the next start");
            }
            _ => {}
        }
    }
}

/// What a guest may send.
#[derive(Clone, Copy)]
struct Bounds {
    limit: u64,
    within: Duration,
}

/// Makes files of an archive. One that is empty makes none, and no directory.
async fn receive(archive: impl AsyncRead + Unpin, directory: &Path, bounds: Bounds) -> Result<(), ExportError> {
    let mut tar = None;
    match (copy(archive, directory, bounds, &mut tar).await, tar) {
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(tar)) => {
            tar.finish().await.map_err(|source| ExportError::Unpack { path: directory.to_owned(), source })
        }
        (Err(error), None) => Err(error),
        (Err(error), Some(tar)) => {
            // What it has made can be removed only when it makes no more.
            tar.kill().await;
            Err(error)
        }
    }
}

/// Copies an archive to a tar, which is started for the first byte.
async fn copy(
    mut archive: impl AsyncRead + Unpin,
    directory: &Path,
    bounds: Bounds,
    tar: &mut Option<Tar>,
) -> Result<(), ExportError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut total = 0;
    loop {
        let read = timeout(bounds.within, archive.read(&mut buffer)).await;
        let read = read.map_err(|_elapsed| ExportError::Stalled { within: bounds.within })?;
        let count = read.map_err(ExportError::Broken)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        total += count as u64;
        if total > bounds.limit {
            return Err(ExportError::TooLong { limit: bounds.limit });
        }
        let running = match tar {
            Some(running) => running,
            None => tar.insert(unpack_into(directory)?),
        };
        if !feed(running, bytes).await {
            // It has ended: its own words say why.
            return Ok(());
        }
    }
}

/// False if tar takes no more.
async fn feed(tar: &mut Tar, bytes: &[u8]) -> bool {
    let Some(stdin) = &mut tar.child.stdin else { return false };
    matches!(timeout(STALL, stdin.write_all(bytes)).await, Ok(Ok(())))
}

/// Tar never leaves the directory: it strips `/` and `..` from names, and makes links that lead outside last. It must be
/// a new one, so that nothing in it leads anywhere.
fn unpack_into(directory: &Path) -> Result<Tar, ExportError> {
    DirBuilder::new()
        .mode(0o700)
        .create(directory)
        .map_err(|source| ExportError::Directory { path: directory.to_owned(), source })?;
    let failed = |source| ExportError::Unpack { path: directory.to_owned(), source };
    let options = ["--extract", "--preserve-permissions", "--same-owner", "--warning=no-timestamp"];
    let tar = Tar::run(directory, &options, &[]).map_err(failed)?;
    if let Some(pid) = tar.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        let bound = Rlimit { current: Some(TAR_MEMORY_BYTES), maximum: Some(TAR_MEMORY_BYTES) };
        prlimit(Some(pid), Resource::As, bound).map_err(|error| failed(TarError::Run(error.into())))?;
    }
    Ok(tar)
}

#[cfg(test)]
mod tests;
