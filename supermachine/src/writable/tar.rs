//! GNU tar, which is the host's end of an archive.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use agent_proto::MOUNT_NOTES;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long an archive may make no progress.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// What is copied at a time.
pub(super) const BUFFER_BYTES: usize = 128 * 1024;
/// How much of tar's complaints is kept.
const MESSAGE_BYTES: u64 = 1024;

/// Numbers for owners, and every attribute but those left out by name.
const OPTIONS: [&str; 3] = ["--numeric-owner", "--xattrs", "--xattrs-include=*"];

/// The host's tar failed.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// It isn't there.
    #[error("GNU tar isn't installed: install the Debian package tar")]
    Missing,
    /// It can't be run.
    #[error("tar can't be run")]
    Run(#[source] io::Error),
    /// It ended with an error.
    #[error("tar failed ({status}): {message}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        message: String,
    },
    /// It didn't end.
    #[error("tar made no progress for {} s", STALL.as_secs())]
    Stalled,
}

/// A running tar; killed when dropped.
pub(super) struct Tar {
    pub(super) child: Child,
    complaint: JoinHandle<String>,
}

impl Tar {
    /// Runs it in a directory, with nothing of our environment: `TAR_OPTIONS` would be obeyed. Names of files come last.
    pub(super) fn run(directory: &Path, options: &[&str], names: &[&str]) -> Result<Self, TarError> {
        let mut command = Command::new("tar");
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.args(options).args(OPTIONS).args(MOUNT_NOTES.map(|name| format!("--xattrs-exclude={name}")));
        command.arg("--file=-").arg("--directory").arg(directory).args(names);
        let directions = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = directions.kill_on_drop(true).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TarError::Missing,
            _ => TarError::Run(error),
        })?;
        let complaint = tokio::spawn(read_complaint(child.stderr.take()));
        Ok(Self { child, complaint })
    }

    /// Waits for its end, with what goes in and out closed.
    pub(super) async fn finish(mut self) -> Result<(), TarError> {
        drop((self.child.stdin.take(), self.child.stdout.take()));
        let status = timeout(STALL, self.child.wait()).await.map_err(|_elapsed| TarError::Stalled)?;
        let status = status.map_err(TarError::Run)?;
        if status.success() {
            return Ok(());
        }
        Err(TarError::Failed { status, message: self.complaint.await.unwrap_or_default() })
    }

    /// Ends it.
    pub(super) async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "tar can't be ended");
        }
    }
}

/// The start of what it says; all of it is read, so that it never waits for us.
async fn read_complaint(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else { return String::new() };
    let mut message = Vec::new();
    let read = (&mut stderr).take(MESSAGE_BYTES).read_to_end(&mut message).await;
    if read.is_ok() {
        // What follows is of no interest, nor is how it ends.
        let _rest = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    }
    // Names in it are the guest's.
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    String::from_utf8_lossy(&message).trim().chars().map(clean).collect()
}
