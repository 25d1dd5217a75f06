//! One directory into one squashfs file.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Pid;

use super::stream::{LeftOut, StreamError, write_tree};

const TOOL: &str = "tar2sqfs";
/// Every start decompresses what it reads of the image, and waits for that: with zstd at its fastest level that is
/// several times the work, for files a quarter smaller (`docs/decisions/0006-layers-in-lz4.md`).
const COMPRESSOR: [&str; 2] = ["--compressor", "lz4"];
/// The layer disk pads every layer to this, so padding the file makes the two equally long.
const PADDING: [&str; 2] = ["--dev-block-size", "4096"];
/// How much of the tool's complaint is kept.
const MESSAGE_BYTES: u64 = 4096;
/// Niceness of a conversion nobody waits for.
const IDLE: i32 = 19;

/// Why a directory wasn't converted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("{TOOL} isn't installed: install the Debian package squashfs-tools-ng")]
    ToolMissing,
    #[error("{TOOL} can't be run")]
    Tool(#[source] io::Error),
    #[error("{TOOL} failed ({status}): {message}")]
    Failed { status: ExitStatus, message: String },
    #[error("the files of the layer can't be read")]
    Stream(#[source] StreamError),
    #[error("the layer {path} can't be put in place")]
    Publish {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the conversion was cancelled: its snapshot was removed, or the snapshotter stops")]
    Cancelled,
}

/// A running conversion, seen by others.
#[derive(Debug)]
pub(super) struct Progress {
    cancelled: AtomicBool,
    processes: Mutex<Option<Processes>>,
}

/// Whom to hurry. Present only while the tool's process can't have been reaped.
#[derive(Debug, Clone, Copy)]
struct Processes {
    reader: Pid,
    tool: Pid,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { cancelled: AtomicBool::new(false), processes: Mutex::new(None) }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Option<Processes>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a conversion that was started at low priority the normal one.
    pub(super) fn hurry(&self) {
        let processes = self.processes();
        if let Some(Processes { reader, tool }) = *processes {
            // The tool leads its own process group, and a group's priority reaches every thread in it.
            let raised = rustix::process::setpriority_process(Some(reader), 0)
                .and_then(|()| rustix::process::setpriority_pgrp(Some(tool), 0));
            if let Err(error) = raised {
                tracing::debug!(%error, "the priority of a conversion can't be raised");
            }
        }
    }
}

/// Converts the directory `files` into the file `target`, which appears complete or not at all. The calling thread's
/// priority is set as `idle` says and inherited by the tool.
pub(super) fn convert(files: &Path, target: &Path, idle: bool, progress: &Progress) -> Result<LeftOut, ConvertError> {
    let partial = PathBuf::from(format!("{}.partial", target.display()));
    if let Err(error) = rustix::process::setpriority_process(None, if idle { IDLE } else { 0 }) {
        tracing::debug!(%error, "the priority of a conversion can't be set");
    }
    let left_out = run_tool(files, &partial, progress);
    let published = left_out.and_then(|left_out| {
        let publish = publish(&partial, target);
        publish.map(|()| left_out).map_err(|source| ConvertError::Publish { path: target.to_owned(), source })
    });
    if published.is_err() && partial.exists() {
        fs::remove_file(&partial).map_err(|source| ConvertError::Publish { path: partial, source })?;
    }
    published
}

fn run_tool(files: &Path, partial: &Path, progress: &Progress) -> Result<LeftOut, ConvertError> {
    let mut child = spawn(partial)?;
    let reader = rustix::thread::gettid();
    let tool = Pid::from_child(&child);
    *progress.processes() = Some(Processes { reader, tool });
    let complaint = child.stderr.take().map(|stderr| std::thread::spawn(move || read_message(stderr)));
    let stdin = child.stdin.take();
    let streamed = match stdin {
        None => Err(StreamError::Write { source: io::ErrorKind::BrokenPipe.into() }),
        Some(stdin) => write_tree(files, BufWriter::with_capacity(1 << 17, Cancellable { inner: stdin, progress })),
    };
    let give_up = progress.cancelled.load(Ordering::Relaxed) || matches!(streamed, Err(ref e) if !is_write(e));
    if give_up {
        // A stream that ends early may look complete to the tool.
        child.kill().map_err(ConvertError::Tool)?;
    }
    *progress.processes() = None;
    let status = child.wait().map_err(ConvertError::Tool)?;
    let message = complaint.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if progress.cancelled.load(Ordering::Relaxed) {
        return Err(ConvertError::Cancelled);
    }
    match streamed {
        // The tool stopped reading: its own message says why.
        Err(error) if is_write(&error) && !status.success() => Err(ConvertError::Failed { status, message }),
        Err(error) => Err(ConvertError::Stream(error)),
        Ok(_) if !status.success() => Err(ConvertError::Failed { status, message }),
        Ok(left_out) => Ok(left_out),
    }
}

fn is_write(error: &StreamError) -> bool {
    matches!(error, StreamError::Write { .. })
}

fn spawn(partial: &Path) -> Result<Child, ConvertError> {
    let spawned = Command::new(TOOL)
        .args(["--quiet", "--force", "--no-skip"])
        .args(COMPRESSOR)
        .args(PADDING)
        .arg(partial)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ConvertError::ToolMissing,
        _ => ConvertError::Tool(error),
    })
}

/// Whether the tool can be run at all.
pub(crate) fn check_tool() -> Result<(), ConvertError> {
    let mut command = Command::new(TOOL);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ConvertError::ToolMissing),
        Err(error) => Err(ConvertError::Tool(error)),
    }
}

/// Reads all of the tool's output, so that it never blocks on it, and keeps the start.
fn read_message(mut stderr: impl Read) -> String {
    let mut message = Vec::new();
    let read = stderr.by_ref().take(MESSAGE_BYTES).read_to_end(&mut message);
    if read.and_then(|_| io::copy(&mut stderr, &mut io::sink())).is_err() {
        message.extend_from_slice(b" (its message can't be read to the end)");
    }
    String::from_utf8_lossy(&message).trim().replace('\n', "; ")
}

/// File content, then name, then the folder: in this order a crash leaves either nothing or a complete layer.
fn publish(partial: &Path, target: &Path) -> io::Result<()> {
    let file = File::open(partial)?;
    file.set_permissions(Permissions::from_mode(0o444))?;
    file.sync_all()?;
    fs::rename(partial, target)?;
    match target.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

struct Cancellable<'a, W> {
    inner: W,
    progress: &'a Progress,
}

impl<W: Write> Write for Cancellable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.progress.cancelled.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
