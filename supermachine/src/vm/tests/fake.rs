//! A VMM without virtual machines, for tests: this very test binary, started again by a script that says how it shall
//! behave. It speaks on its standard input as the real one does, and its "guest" is an agent in the same process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_proto::export_upper_response::State;
use agent_proto::{
    Agent, Empty, ExportUpperRequest, ExportUpperResponse, PrepareImageRequest, ReleaseUpperRequest, ResumeRequest,
    ResumeResponse, create_agent,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};
use vmm_api::{
    AGENT_PORT, ControlSocket, Failure, FailureKind, Fd, MachineFacts, MemoryExtent, Packet, Reply, Request, Timeline,
    exit_code,
};

/// Names the behaviour.
const BEHAVIOUR: &str = "FAKE_VMM";

/// Writes a program that behaves as a VMM, `behaviour` saying how well. Empty is: well.
pub(super) fn install(directory: &Path, behaviour: &str) -> PathBuf {
    let path = directory.join("vmm");
    let binary = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n{BEHAVIOUR}={behaviour}, exec {} --exact vm::tests::fake::fake_vmm --ignored --nocapture\n",
        binary.display()
    );
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o700).open(&path).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
#[ignore = "not a test: the program that tests start as their VMM"]
fn fake_vmm() {
    let Ok(behaviour) = std::env::var(BEHAVIOUR) else { return };
    let control = ControlSocket::from(rustix::io::dup(rustix::stdio::stdin()).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut fake = Fake { control, behaviour, runtime, uppers: HashMap::new() };
    while let Ok(packet) = fake.control.receive::<Request>() {
        fake.answer(packet);
    }
    exit(exit_code::STOPPED);
}

#[expect(clippy::exit, reason = "the exit code is what this process has to say")]
fn exit(code: i32) -> ! {
    std::process::exit(code)
}

struct Fake {
    control: ControlSocket,
    behaviour: String,
    runtime: tokio::runtime::Runtime,
    uppers: HashMap<u64, OwnedFd>,
}

impl Fake {
    fn does(&self, behaviour: &str) -> bool {
        self.behaviour.split(',').any(|word| word == behaviour)
    }

    fn reply(&self, reply: &Reply) {
        self.control.send(reply, &[]).unwrap();
    }

    fn fail(&self, kind: FailureKind, message: &str) -> ! {
        self.reply(&Reply::Failed(Failure { kind, message: message.to_owned() }));
        exit(exit_code::START_FAILED)
    }

    fn capture(&mut self, mut state: File, mut memory: File) {
        state.write_all(b"state").unwrap();
        memory.write_all(&[9; 4096]).unwrap();
        let extents = vec![MemoryExtent { guest_page: 256, file_page: 0, pages: 1 }];
        self.reply(&Reply::Captured { extents, state_bytes: 5 });
    }

    fn answer(&mut self, packet: Packet<Request>) {
        let (request, mut fds) = packet.split();
        match request {
            Request::Describe { .. } if self.does("no-kvm") => self.fail(FailureKind::Kvm, "KVM_CAP_IRQFD is missing"),
            Request::Describe { .. } => self.reply(&Reply::Described(facts())),
            Request::Restore(_) if self.does("bad-bake") => self.fail(FailureKind::BadBake, "state does not decode"),
            Request::Restore(restore) if self.does("bad-image") && restore.memory.len() > 1 => {
                self.fail(FailureKind::BadBake, "state does not decode");
            }
            Request::Restore(_) if self.does("die-restoring") => exit(exit_code::GUEST_CRASHED),
            Request::Restore(restore) => {
                for memory in &restore.memory {
                    let mut bytes = Vec::new();
                    File::from(fds.take(memory.file).unwrap()).read_to_end(&mut bytes).unwrap();
                    assert_eq!(bytes, [9; 4096]);
                }
                self.run(restore.host.console, &mut fds);
            }
            Request::Boot(_) if self.does("bad-kernel") => self.fail(FailureKind::BadKernel, "not an ELF file"),
            Request::Boot(boot) => self.run(boot.host.console, &mut fds),
            Request::Connect { port, stream } => {
                self.reply(&Reply::Connecting);
                self.connect(port, fds.take(stream).unwrap());
            }
            Request::AttachNetwork { .. } => self.reply(&Reply::Attached),
            Request::DetachNetwork { .. } => self.reply(&Reply::Detached),
            Request::Capture { state, memory, .. } => {
                self.capture(fds.take(state).unwrap().into(), fds.take(memory).unwrap().into());
            }
            Request::CopyAhead { .. } => self.reply(&Reply::Copied),
            Request::ListWritten { .. } => self.reply(&Reply::Written { runs: Vec::new() }),
            Request::AttachDisks { upper_start, .. } if self.does("full") => {
                // With it goes the lock that its file has.
                drop(fds);
                let message = format!("no room at {upper_start}");
                self.reply(&Reply::Failed(Failure { kind: FailureKind::Invalid, message }));
            }
            Request::AttachDisks { disks, upper_start } => {
                if let Some(upper) = disks.upper {
                    self.uppers.insert(upper_start, fds.take(upper.file).unwrap());
                }
                self.reply(&Reply::Attached);
            }
            Request::AttachDevice { start, .. } if start > 8192 => {
                let message = format!("no room at {start}");
                self.reply(&Reply::Failed(Failure { kind: FailureKind::Invalid, message }));
            }
            Request::AttachDevice { device, start, .. } => {
                self.uppers.insert(start, fds.take(device).unwrap());
                self.reply(&Reply::Attached);
            }
            Request::DetachUpper { start } => {
                self.uppers.remove(&start).unwrap();
                self.reply(&Reply::Detached);
            }
            Request::Shutdown => {
                self.reply(&Reply::Stopping);
                exit(exit_code::STOPPED)
            }
        }
    }

    fn run(&self, console: Fd, fds: &mut Packet<()>) {
        let mut console = File::from(fds.take(console).unwrap());
        console.write_all(b"Linux version 6\r\nlast line\r\n").unwrap();
        if self.does("die") {
            eprintln!("triple fault");
            exit(exit_code::GUEST_CRASHED);
        }
        self.reply(&Reply::Running(Timeline { opened_us: 1, mapped_us: 2, wired_us: 3, running_us: 4 }));
    }

    /// A stream is echoed after its token; the agent's port is served.
    fn connect(&self, port: u32, stream: OwnedFd) {
        if self.does("silent") {
            // Kept open and never read.
            return std::mem::drop(self.runtime.spawn(async move {
                let _stream = stream;
                std::future::pending::<()>().await;
            }));
        }
        let stream = StdStream::from(stream);
        stream.set_nonblocking(true).unwrap();
        let (gives, refuses) = (self.does("gives"), self.does("refuses"));
        self.runtime.spawn(async move {
            let mut stream = UnixStream::from_std(stream).unwrap();
            if port == AGENT_PORT {
                let one = futures::stream::iter([Ok(stream)]);
                let listener = Listener::new(futures::StreamExt::chain(one, futures::stream::pending()));
                let service = create_agent(Arc::new(FakeAgent { gives, refuses }));
                let mut server = Server::new().register_service(service).add_listener(listener);
                server.start().await.unwrap();
                return std::future::pending::<()>().await;
            }
            if gives || refuses {
                let mut token = [0; 8];
                stream.read_exact(&mut token).await.unwrap();
                // This is the package's folder.
                let archive = std::process::Command::new("tar").args(["-c", "proto"]).output().unwrap().stdout;
                return stream.write_all(&archive).await.unwrap();
            }
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
    }
}

/// Exports nothing, unless it gives something or refuses.
struct FakeAgent {
    gives: bool,
    refuses: bool,
}

#[async_trait::async_trait]
impl Agent for FakeAgent {
    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<ResumeResponse> {
        assert_eq!(request.entropy.len(), 64);
        assert!(request.entropy.iter().any(|byte| *byte != 0));
        Ok(ResumeResponse { kernel_release: request.hostname, ..ResumeResponse::default() })
    }

    async fn export_upper(&self, _: &TtrpcContext, request: ExportUpperRequest) -> ttrpc::Result<ExportUpperResponse> {
        assert!(request.stream != 0);
        let state = match (self.gives, self.refuses) {
            (_, true) => return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, "read file"))),
            (true, false) => State::WRITTEN,
            (false, false) => State::UNUSED,
        };
        Ok(ExportUpperResponse { state: state.into(), generation: request.known + 1, ..Default::default() })
    }

    /// The third place is always in use.
    async fn release_upper(&self, _: &TtrpcContext, request: ReleaseUpperRequest) -> ttrpc::Result<Empty> {
        match request.offset_bytes {
            8192 => Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::FAILED_PRECONDITION, "in use"))),
            _ => Ok(Empty::new()),
        }
    }

    async fn prepare_image(&self, _: &TtrpcContext, request: PrepareImageRequest) -> ttrpc::Result<Empty> {
        assert_eq!(request.layers.len(), 1);
        Ok(Empty::new())
    }

    async fn prepare_capture(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        Ok(Empty::new())
    }
}

fn facts() -> MachineFacts {
    MachineFacts {
        vendor: "AuthenticFake".to_owned(),
        family: 1,
        model: 2,
        stepping: 3,
        cpuid_hash: [4; 32],
        tsc_khz: 1_000_000,
        kvm_api_version: 12,
        device_layout: 1,
    }
}
