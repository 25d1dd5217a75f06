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
    let options = ["--create", "--format=posix", "--sparse"];
    let mut tar = Tar::run(directory, &options, &["."]).map_err(ImportFailure::Tar)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out at the other end, and how it ended.
    async fn sent(directory: &Path) -> (Vec<u8>, Result<(), ImportError>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let import = Import::begin(Stream { token: 7, socket: ours }, directory);
        let mut archive = Vec::new();
        theirs.read_to_end(&mut archive).await.unwrap();
        (archive, import.finished().await)
    }

    #[tokio::test]
    async fn everything_in_a_directory_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![b'x'; 300_000]).unwrap();
        let (archive, sent) = sent(dir.path()).await;
        sent.unwrap();
        let has = |text: &[u8]| archive.windows(text.len()).any(|window| window == text);
        assert!(archive.len() > 300_000 && has(b"./file\0") && has(&[b'x'; 300_000]));
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_read_and_a_guest_that_hangs_up_are_told() {
        let error = sent(Path::new("/nonexistent")).await.1.unwrap_err();
        assert!(matches!(error.cause, ImportFailure::Tar(_)), "{}", chain(&error));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), vec![b'x'; 3_000_000]).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let import = Import::begin(Stream { token: 7, socket: ours }, dir.path());
        let error = import.finished().await.unwrap_err();
        assert!(matches!(error.cause, ImportFailure::Stream(_)) && error.kind() == ErrorKind::Unavailable);
    }
}
