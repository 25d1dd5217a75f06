//! The standard streams of a process: pipes or a terminal on its side, connections of the host on the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::descriptor::Descriptor;
use crate::kept_streams::KeptStreams;
use crate::relay::{Copied, copy};

/// The host's ends; a stream without one reads the end of file or is thrown away.
#[derive(Debug, Default)]
pub(crate) struct HostStreams {
    pub(crate) stdin: Option<Descriptor>,
    pub(crate) stdout: Option<Descriptor>,
    pub(crate) stderr: Option<Descriptor>,
}

/// Pipes between a new process and the host, not yet copied.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// The process's standard input, output and error.
    process: [OwnedFd; 3],
    /// The agent's ends.
    agent: [Option<OwnedFd>; 3],
}

impl Pipes {
    /// Makes a pipe for each stream the host has an end of; the others get `/dev/null`.
    pub(crate) fn new(host: &HostStreams) -> io::Result<Self> {
        Self::wanted(host.stdin.is_some(), host.stdout.is_some(), host.stderr.is_some())
    }

    /// Makes them for a process without a host, which keeps its output, and whose input somebody may write to later.
    pub(crate) fn unattached(stdin: bool) -> io::Result<Self> {
        Self::wanted(stdin, true, true)
    }

    fn wanted(stdin: bool, stdout: bool, stderr: bool) -> io::Result<Self> {
        let input = |wanted: bool| if wanted { pipe().map(|(read, write)| (read, Some(write))) } else { null() };
        let output = |wanted: bool| if wanted { pipe().map(|(read, write)| (write, Some(read))) } else { null() };
        let (stdin, to_stdin) = input(stdin)?;
        let (stdout, from_stdout) = output(stdout)?;
        let (stderr, from_stderr) = output(stderr)?;
        Ok(Self { process: [stdin, stdout, stderr], agent: [to_stdin, from_stdout, from_stderr] })
    }

    /// Closes the process's ends here and keeps what comes out of an unattached one.
    pub(crate) fn keep(self) -> io::Result<KeptStreams> {
        let [to_stdin, from_stdout, from_stderr] = self.agent;
        let (Some(from_stdout), Some(from_stderr)) = (from_stdout, from_stderr) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        drop(self.process);
        KeptStreams::new(to_stdin, from_stdout, from_stderr)
    }

    /// The process's ends.
    pub(crate) fn for_process(&self) -> [BorrowedFd<'_>; 3] {
        self.process.each_ref().map(AsFd::as_fd)
    }

    /// Closes the process's ends here and starts copying.
    pub(crate) fn copy(self, host: HostStreams) -> io::Result<()> {
        let [to_stdin, from_stdout, from_stderr] = self.agent;
        drop(self.process);
        if let (Some(from), Some(to)) = (host.stdin, to_stdin) {
            drop(tokio::spawn(feed(from, Descriptor::new(to)?)));
        }
        for (from, to) in [(from_stdout, host.stdout), (from_stderr, host.stderr)] {
            if let Some(from) = from {
                drop(tokio::spawn(drain(Arc::new(Descriptor::new(from)?), to)));
            }
        }
        Ok(())
    }
}

/// Starts copying between a terminal's controlling end and the host.
pub(crate) fn copy_terminal(terminal: &Arc<Descriptor>, host: HostStreams) {
    if let Some(from) = host.stdin {
        let terminal = Arc::clone(terminal);
        drop(tokio::spawn(async move { copy(&from, &terminal).await }));
    }
    drop(tokio::spawn(drain(Arc::clone(terminal), host.stdout)));
}

/// Host to process, until the host has no more (then the process reads the end of file) or the process doesn't listen.
pub(crate) async fn feed(from: Descriptor, to: Descriptor) {
    tokio::select! {
        _ = copy(&from, &to) => {}
        _ = to.reader_gone() => {}
    }
}

/// Process to host, until every writer is gone. A host that stopped listening doesn't stop the process.
pub(crate) async fn drain(from: Arc<Descriptor>, to: Option<Descriptor>) {
    if let Some(to) = to {
        let copied = copy(&from, &to).await;
        to.finish_writing();
        if copied == Copied::All {
            return;
        }
    }
    let mut buffer = [0; 1024];
    while from.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC)?)
}

fn null() -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    Ok((rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?, None))
}
