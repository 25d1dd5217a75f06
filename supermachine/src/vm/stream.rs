//! Stdio streams.

use std::io::{self, Write};
use std::os::unix::net::UnixStream as StdStream;

use tokio::net::UnixStream;
use vmm_api::{Request, STREAM_PORT};

use crate::error::ErrorKind;
use crate::launch::Attachments;
use crate::vm::VMM_WITHIN;
use crate::vmm::{Process, VmmError};

/// One stream into the guest.
#[derive(Debug)]
pub struct Stream {
    /// Names it in requests to the agent.
    pub token: u64,
    /// Our end. Shutting down writing is the process's end of file; end of file when reading means that nobody in the
    /// guest writes any more.
    pub socket: UnixStream,
}

/// A stream can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No socket can be made.
    #[error("no stream into the guest can be made")]
    Socket(#[source] io::Error),
    /// The VMM is gone.
    #[error("no stream into the guest can be opened")]
    Vmm(#[source] VmmError),
}

impl StreamError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Socket(_) => ErrorKind::Internal,
            Self::Vmm(error) => error.kind(),
        }
    }
}

/// Asks the VMM for a connection and writes the token. Nothing is waited for: a connection that the guest refuses
/// shows as end of file.
pub(crate) fn open(process: &Process) -> Result<Stream, StreamError> {
    let (mut ours, theirs) = StdStream::pair().map_err(StreamError::Socket)?;
    let token = token().map_err(StreamError::Socket)?;
    ours.write_all(&token.to_le_bytes()).map_err(StreamError::Socket)?;
    ours.set_nonblocking(true).map_err(StreamError::Socket)?;
    let mut attachments = Attachments::default();
    let request = Request::Connect { port: STREAM_PORT, stream: attachments.attach(&theirs) };
    process.send(&request, &attachments).map_err(StreamError::Vmm)?;
    Ok(Stream { token, socket: UnixStream::from_std(ours).map_err(StreamError::Socket)? })
}

/// Has the VMM connect to a port of the guest, and says something first, which at most fills a socket's buffer.
pub(super) async fn connect(process: &Process, port: u32, first: &[u8]) -> Result<UnixStream, StreamError> {
    let (mut ours, theirs) = StdStream::pair().map_err(StreamError::Socket)?;
    ours.write_all(first).map_err(StreamError::Socket)?;
    ours.set_nonblocking(true).map_err(StreamError::Socket)?;
    let ours = UnixStream::from_std(ours).map_err(StreamError::Socket)?;
    let mut attachments = Attachments::default();
    let request = Request::Connect { port, stream: attachments.attach(&theirs) };
    process.ask(&request, &attachments, VMM_WITHIN).await.map_err(StreamError::Vmm)?;
    Ok(ours)
}

/// A number that nothing else names; 0 means "no stream".
fn token() -> io::Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

/// Fills a buffer of at most 256 bytes, which the kernel does in one go.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let filled = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}
