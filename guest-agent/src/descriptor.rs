//! Asynchronous reads and writes on any pollable descriptor: sockets, pipes, terminals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::sys;

/// An open descriptor in non-blocking mode, known to the runtime.
#[derive(Debug)]
pub(crate) struct Descriptor {
    inner: AsyncFd<OwnedFd>,
}

impl Descriptor {
    /// Takes over `fd` and makes it non-blocking.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { inner: sys::watch(fd)? })
    }

    /// Gives the descriptor back, in blocking mode.
    pub(crate) fn into_blocking(self) -> io::Result<OwnedFd> {
        let fd = self.inner.into_inner();
        rustix::io::ioctl_fionbio(&fd, false)?;
        Ok(fd)
    }

    /// Runs `operation` as soon as it doesn't answer "would block" for reading.
    pub(crate) async fn when_readable<T>(
        &self,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.inner.async_io(Interest::READABLE, |fd| operation(fd.as_fd())).await
    }

    /// Reads what is there, at least one byte; 0 at the end.
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when_readable(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)).await
    }

    /// Fills a buffer.
    pub(crate) async fn read_exact(&self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => buffer = buffer.get_mut(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.inner.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until nobody can read any more what is written here (a pipe without readers).
    pub(crate) async fn reader_gone(&self) -> io::Result<()> {
        self.inner.ready(Interest::ERROR).await.map(drop)
    }

    /// Accepts one connection of a listening socket.
    pub(crate) async fn accept(&self) -> io::Result<OwnedFd> {
        self.when_readable(|fd| Ok(rustix::net::accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)).await
    }

    /// The next connection of a listening socket; `what` it is, should one not be had.
    pub(crate) async fn next_connection(&self, what: &str) -> Self {
        loop {
            match self.accept().await.and_then(Self::new) {
                Ok(connection) => return connection,
                Err(error) => {
                    eprintln!("agent: accept {what}: {error}");
                    // Out of descriptors, say: the same call would fail at once again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Tells the other side of a socket that nothing more will be written. Nothing happens on other descriptors.
    pub(crate) fn finish_writing(&self) {
        // Not connected any more, or no socket at all: both mean that there is nobody to tell.
        let _ = rustix::net::shutdown(self.inner.get_ref(), Shutdown::Write);
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}

impl AsyncRead for Descriptor {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.inner.poll_read_ready(cx))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *unfilled)?)) {
                Ok(result) => return Poll::Ready(result.map(|count| buffer.advance(count))),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Descriptor {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.inner.poll_write_ready(cx))?;
            match guard.try_io(|fd| Ok(rustix::net::send(fd.get_ref(), bytes, rustix::net::SendFlags::NOSIGNAL)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(self.inner.get_ref(), Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_ends_early_fills_no_buffer() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        io::Write::write_all(&mut &ours, &[7; 3]).unwrap();
        let connection = Descriptor::new(theirs.into()).unwrap();
        let mut buffer = [0; 2];
        connection.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, [7; 2]);
        drop(ours);
        let error = connection.read_exact(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
