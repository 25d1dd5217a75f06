//! What the host has in a directory, brought into a VM.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::tar::{BUFFER_BYTES, STALL, Tar, TarError};
use crate::error::{ErrorKind, chain};
use crate::vm::Stream;

/// Files could not be brought into a VM.
#[derive(Debug, thiserror::Error)]
#[error("the files in {} can't be brought into the virtual machine", path.display())]
pub struct ImportError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: ImportFailure,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    /// They can't be read, or change meanwhile.
    #[error("they can't be read")]
    Tar(#[source] TarError),
    /// The guest takes no more.
    #[error("the virtual machine takes no more")]
    Stream(#[source] io::Error),
    /// Whoever brought them was ended.
    #[error("it was given up")]
    GivenUp,
}

impl ImportError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self.cause {
            ImportFailure::Tar(TarError::Missing) => ErrorKind::FailedPrecondition,
            ImportFailure::Tar(_) => ErrorKind::Internal,
            ImportFailure::Stream(_) | ImportFailure::GivenUp => ErrorKind::Unavailable,
        }
    }
}

/// Files on their way into a VM. Dropping it ends them.
#[derive(Debug)]
pub struct Import {
    /// Names the stream that they come by.
    pub token: u64,
    path: PathBuf,
    task: JoinHandle<Result<(), ImportFailure>>,
}

impl Import {
    /// Begins to send everything in a directory, and the directory's own attributes.
    pub(crate) fn begin(stream: Stream, directory: &Path) -> Self {
        let Stream { token, socket } = stream;
        let path = directory.to_owned();
        let task = tokio::spawn(async move {
            let sent = send(&path, socket).await;
            if let Err(error) = &sent {
                // The guest's complaint about an archive that ends early comes first.
                tracing::warn!(path = %path.display(), error = chain(error), "files are not brought into the VM");
            }
            sent
        });
        Self { token, path: directory.to_owned(), task }
    }

    /// Waits until everything was sent.
    pub async fn finished(mut self) -> Result<(), ImportError> {
        let sent = (&mut self.task).await.unwrap_or(Err(ImportFailure::GivenUp));
        sent.map_err(|cause| ImportError { path: self.path.clone(), cause })
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn send(directory: &Path, mut socket: UnixStream) -> Result<(), ImportFailure> {
    let mut tar = Tar::run(directory, &["--create", "--format=posix", "--sparse", "."]).map_err(ImportFailure::Tar)?;
    drop(tar.child.stdin.take());
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Some(stdout) = &mut tar.child.stdout {
        let read = timeout(STALL, stdout.read(&mut buffer)).await;
        let read = read.map_err(|_elapsed| ImportFailure::Tar(TarError::Stalled))?;
        let count = read.map_err(|error| ImportFailure::Tar(TarError::Run(error)))?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        let written = timeout(STALL, socket.write_all(bytes)).await;
        written.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())).map_err(ImportFailure::Stream)?;
    }
    // An archive may look whole though some file couldn't be read: `finished` tells.
    tar.finish().await.map_err(ImportFailure::Tar)?;
    socket.shutdown().await.map_err(ImportFailure::Stream)
}
