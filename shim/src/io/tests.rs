//! Stdio against FIFOs, files and programs, with the guest's end of each stream in the test's hands.

use std::path::Path;

use nix::sys::stat::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::sandbox::fake::FakeSandbox;

const IDENTITY: LogIdentity<'static> = LogIdentity { namespace: "ns", id: "c1" };

/// A VM whose streams end in the test.
struct Wires(UnboundedSender<UnixStream>, std::sync::Arc<FakeSandbox>);

impl Wires {
    async fn new() -> (Self, UnboundedReceiver<UnixStream>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender, FakeSandbox::start().await), receiver)
    }
}

#[async_trait::async_trait]
impl Sandbox for Wires {
    fn pid(&self) -> u32 {
        self.1.pid()
    }

    fn joined(&self) -> Option<&crate::remains::Remains> {
        None
    }

    fn recorder(&self) -> Option<supermachine::Recorder> {
        None
    }

    fn is_warm(&self) -> bool {
        self.1.is_warm()
    }

    fn agent(&self) -> &agent_proto::AgentClient {
        self.1.agent()
    }

    async fn connect_network(&self) -> Result<(), SandboxError> {
        self.1.connect_network().await
    }

    async fn rootfs(&self) -> Result<agent_proto::RootFilesystem, SandboxError> {
        self.1.rootfs().await
    }

    async fn settle(&self) -> Result<(), SandboxError> {
        self.1.settle().await
    }

    fn sockets(&self) -> Vec<agent_proto::Socket> {
        self.1.sockets()
    }

    fn resolver(&self) -> Option<agent_proto::Resolver> {
        self.1.resolver()
    }

    async fn watch_volumes(&self) {}

    fn devices(&self) -> Vec<agent_proto::BlockDevice> {
        self.1.devices()
    }

    async fn serve_sockets(&self) -> Result<(), SandboxError> {
        self.1.serve_sockets().await
    }

    async fn export(&self, directory: &Path, known: &str) -> Result<crate::sandbox::Export, SandboxError> {
        self.1.export(directory, known).await
    }

    async fn open_stream(&self) -> Result<Stream, SandboxError> {
        let (socket, guest) = UnixStream::pair().unwrap();
        self.0.send(guest).unwrap();
        Ok(Stream { token: 7, socket })
    }

    async fn exited(&self) -> String {
        self.1.exited().await
    }

    async fn leave(&self) {}

    async fn shutdown(&self) {}
}

fn mkfifo(dir: &Path, name: &str) -> String {
    let path = dir.join(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn fifos_carry_both_ways_and_end_with_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let stdio = Stdio::new(&mkfifo(dir.path(), "in"), &mkfifo(dir.path(), "out"), "", false);
    let (wires, mut guests) = Wires::new().await;
    let io = ProcessIo::default();
    let tokens = io.connect(&stdio, &wires, &IDENTITY).await.unwrap();
    assert_eq!((tokens.stdin, tokens.stdout, tokens.stderr), (7, 7, 0));
    let (mut stdin, mut stdout) = (guests.recv().await.unwrap(), guests.recv().await.unwrap());

    let mut reader = pipe::OpenOptions::new().open_receiver(&stdio.stdout).unwrap();
    io.open_stdin().unwrap();
    let mut writer = pipe::OpenOptions::new().open_sender(&stdio.stdin).unwrap();
    writer.write_all(b"question").await.unwrap();
    drop(writer);
    io.close_stdin();
    let mut question = String::new();
    stdin.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");

    stdout.write_all(b"answer").await.unwrap();
    drop(stdout);
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    io.drain().await;
}

#[tokio::test]
async fn one_file_takes_both_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logs/out");
    let uri = format!("file://{}", path.display());
    let (wires, mut guests) = Wires::new().await;
    let io = ProcessIo::default();
    let tokens = io.connect(&Stdio::new("", &uri, &uri, false), &wires, &IDENTITY).await.unwrap();
    assert_eq!((tokens.stdin, tokens.stdout, tokens.stderr), (0, 7, 7));
    for text in ["out\n", "err\n"] {
        guests.recv().await.unwrap().write_all(text.as_bytes()).await.unwrap();
    }
    io.drain().await;
    let mut lines: Vec<_> = std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
}

fn write_program(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join("logger");
    std::fs::write(&path, format!("#!/bin/sh\nexec 5>&-\n{script}")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn logging_program_reads_both_outputs_and_is_told_whose_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let script = "(echo \"$1=$2 $CONTAINER_NAMESPACE/$CONTAINER_ID\"; cat <&3; cat <&4) >\"$2\"\n";
    let program = write_program(dir.path(), script);
    let log = dir.path().join("log");
    let uri = format!("binary://{}?to={}", program.display(), log.display());
    let (wires, mut guests) = Wires::new().await;
    let io = ProcessIo::default();
    io.connect(&Stdio::new("", &uri, &uri, false), &wires, &IDENTITY).await.unwrap();
    for text in ["out\n", "err\n"] {
        guests.recv().await.unwrap().write_all(text.as_bytes()).await.unwrap();
    }
    io.drain().await;
    assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("to={} ns/c1\nout\nerr\n", log.display()));
}

/// The guest's agent, whose stream is refused, goes on to read what the process writes.
#[tokio::test]
async fn a_logging_program_that_ends_early_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("binary://{}", write_program(dir.path(), "").display());
    let (wires, mut guests) = Wires::new().await;
    let io = ProcessIo::default();
    io.connect(&Stdio::new("", &uri, &uri, false), &wires, &IDENTITY).await.unwrap();
    let (mut stdout, stderr) = (guests.recv().await.unwrap(), guests.recv().await.unwrap());
    let refused = stdout.write_all(&vec![b'x'; 8 << 20]).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    drop((stdout, stderr));
    tokio::time::timeout(DRAIN_TIMEOUT / 2, io.drain()).await.unwrap();
    assert!(io.is_delivered());
}

#[tokio::test]
async fn unusable_targets_are_named() {
    let (wires, _guests) = Wires::new().await;
    let io = ProcessIo::default();
    let error = io.connect(&Stdio::new("", "/missing/fifo", "", false), &wires, &IDENTITY).await.unwrap_err();
    assert!(matches!(error, StdioError::Fifo { path, .. } if path == "/missing/fifo"));
    let error = io.connect(&Stdio::new("", "binary:///missing", "", false), &wires, &IDENTITY).await.unwrap_err();
    assert!(matches!(error, StdioError::Logger { .. }));
    io.abort().await;
}
