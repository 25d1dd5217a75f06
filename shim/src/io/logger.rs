//! A logging program (`binary://`): reads standard output on descriptor 3, standard error on 4, and closes 5 when ready.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tracing::{debug, warn};

use super::StdioError;

/// How long a logging program may take to say that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A logging program and its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Logger {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<String>,
}

/// Whose output it is; told to the program in its environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogIdentity<'a> {
    /// containerd namespace.
    pub(crate) namespace: &'a str,
    /// Container id.
    pub(crate) id: &'a str,
}

/// A logging program that is ready.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) stdout: pipe::Sender,
    pub(super) stderr: pipe::Sender,
}

impl Logger {
    /// Runs the program and waits until it is ready.
    pub(super) async fn run(&self, identity: &LogIdentity<'_>) -> Result<Running, StdioError> {
        self.try_run(identity).await.map_err(|source| StdioError::Logger { path: self.path.clone(), source })
    }

    async fn try_run(&self, identity: &LogIdentity<'_>) -> io::Result<Running> {
        let (stdout_reader, stdout) = io::pipe()?;
        let (stderr_reader, stderr) = io::pipe()?;
        let (ready, ready_writer) = io::pipe()?;
        let mut command = std::process::Command::new(&self.path);
        command
            .args(&self.arguments)
            .env("CONTAINER_ID", identity.id)
            .env("CONTAINER_NAMESPACE", identity.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .fd_mappings(vec![
                FdMapping { parent_fd: stdout_reader.into(), child_fd: 3 },
                FdMapping { parent_fd: stderr_reader.into(), child_fd: 4 },
                FdMapping { parent_fd: ready_writer.into(), child_fd: 5 },
            ])
            .map_err(io::Error::other)?;
        // The command holds our copies of the program's ends; they go with it.
        let mut command = Command::from(command);
        let child = command.kill_on_drop(true).spawn()?;
        drop(command);
        let mut ready = pipe::Receiver::from_owned_fd(OwnedFd::from(ready))?;
        let mut byte = [0];
        match tokio::time::timeout(READY_TIMEOUT, ready.read(&mut byte)).await {
            Ok(read) => read?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the program did not become ready")),
        };
        Ok(Running {
            child,
            stdout: pipe::Sender::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: pipe::Sender::from_owned_fd(OwnedFd::from(stderr))?,
        })
    }
}

/// Waits for the program to end, which it does once its inputs have; dropped, it kills the program.
pub(super) async fn wait(mut child: Child) {
    match child.wait().await {
        Ok(status) if status.success() => debug!("logging program ended"),
        Ok(status) => warn!("logging program failed: {status}"),
        Err(error) => warn!("logging program was lost: {error}"),
    }
}
