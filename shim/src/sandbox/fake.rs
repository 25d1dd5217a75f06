//! A VM without a VM: the agent's protocol, spoken over a socket pair by a guest with a handful of programs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agent_proto::{
    Agent, AgentClient, ContainerRequest, ContainerStats, CreateContainerRequest, CreateProcessRequest, Empty,
    MemoryEvents, OutOfMemory, ProcessCreated, ProcessExit, ProcessList, ProcessRequest, Resolver, RootFilesystem,
    SetClockRequest, SignalProcessRequest, Stdio, UpdateContainerRequest, WaitOutOfMemoryRequest, create_agent,
    process_list,
};
use containerd_shim_protos::types::mount::Mount;
use supermachine::StartRecord;
use tokio::net::UnixStream;
use tokio::sync::watch;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};
use ttrpc::{Code, get_status};

use super::{Export, Launch, Launcher, Sandbox, SandboxError};
use crate::bundle::{BundleError, RootLayers};
use crate::io::Stream;

/// What every fake VM's VMM is known by.
pub(crate) const PID: u32 = 4242;

type Key = (String, String);

struct Program {
    args: Vec<String>,
    stdio: Stdio,
    exit: watch::Sender<Option<u32>>,
}

/// The guest: programs by container and exec id, and streams by token.
#[derive(Default)]
struct Guest {
    streams: Mutex<HashMap<u64, UnixStream>>,
    programs: Mutex<HashMap<Key, Arc<Program>>>,
    is_frozen: AtomicBool,
    /// What Update brought, by request.
    updates: Mutex<Vec<serde_json::Value>>,
    oom_kills: watch::Sender<u64>,
    /// How late its clock is, and how long a time of day is on its way.
    clock: Mutex<(Duration, Duration)>,
}

impl Guest {
    fn add(&self, key: Key, process: &serde_json::Value, stdio: Stdio) -> ttrpc::Result<ProcessCreated> {
        let args = process["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned()).collect();
        let program = Program { args, stdio, exit: watch::Sender::new(None) };
        let mut programs = self.programs.lock().unwrap();
        programs.insert(key, Arc::new(program));
        Ok(ProcessCreated { pid: u32::try_from(programs.len()).unwrap(), ..Default::default() })
    }

    fn program(&self, container: &str, exec: &str) -> ttrpc::Result<Arc<Program>> {
        let key = (container.to_owned(), exec.to_owned());
        self.programs.lock().unwrap().get(&key).cloned().ok_or_else(|| refuse(Code::NOT_FOUND, "no such process"))
    }

    fn stream(&self, token: u64) -> Option<UnixStream> {
        self.streams.lock().unwrap().remove(&token)
    }
}

fn refuse(code: Code, message: &str) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

/// What `late` writes.
pub(crate) const LATE_BYTES: usize = 1 << 20;

/// Runs `exit N`, `cat`, `sleep`, `late`, whose output comes after its exit, `greedy`, which is killed for lack of
/// memory, and `deaf`, whose guest doesn't answer signals; anything else is missing.
async fn run(guest: Arc<Guest>, program: Arc<Program>) {
    let (stdin, stdout) = (guest.stream(program.stdio.stdin), guest.stream(program.stdio.stdout));
    match program.args[0].as_str() {
        "exit" => {
            program.exit.send_if_modified(|exit| exit.replace(program.args[1].parse().unwrap()).is_none());
        }
        "late" => {
            program.exit.send_if_modified(|exit| exit.replace(0).is_none());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            tokio::io::AsyncWriteExt::write_all(&mut stdout.unwrap(), &vec![b'x'; LATE_BYTES]).await.unwrap();
        }
        "greedy" => {
            guest.oom_kills.send_modify(|kills| *kills += 1);
            program.exit.send_if_modified(|exit| exit.replace(137).is_none());
        }
        "cat" => {
            tokio::io::copy(&mut stdin.unwrap(), &mut stdout.unwrap()).await.unwrap();
            program.exit.send_if_modified(|exit| exit.replace(0).is_none());
        }
        _ => {
            program.exit.subscribe().wait_for(Option::is_some).await.unwrap();
        }
    }
}

#[derive(Clone)]
struct FakeAgent(Arc<Guest>);

#[async_trait::async_trait]
impl Agent for FakeAgent {
    async fn create_container(&self, _: &TtrpcContext, call: CreateContainerRequest) -> ttrpc::Result<ProcessCreated> {
        let spec: serde_json::Value = serde_json::from_slice(&call.spec).unwrap();
        assert!(spec.get("hooks").is_none(), "hooks are the host's");
        let sent = SystemTime::UNIX_EPOCH + Duration::from_nanos(call.realtime_ns);
        assert!(sent.elapsed().unwrap() < Duration::from_secs(60), "a machine gets the time with its first container");
        for hosts in &call.files {
            assert_eq!(hosts.content, b"written by a hook\n", "hooks come first");
        }
        let created =
            self.0.add((call.container_id, String::new()), &spec["process"], call.stdio.unwrap_or_default())?;
        let mut clock = self.0.clock.lock().unwrap();
        if spec["process"]["args"][0] == "tardy" {
            *clock = (sent.elapsed().unwrap() + Duration::from_secs(1), Duration::from_millis(100));
        }
        let told = SystemTime::now() - clock.0;
        let told = told.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Ok(ProcessCreated { realtime_ns: told.as_nanos().try_into().unwrap(), ..created })
    }

    /// Each time it takes half as long.
    async fn set_clock(&self, _: &TtrpcContext, call: SetClockRequest) -> ttrpc::Result<Empty> {
        let delay = std::mem::replace(&mut self.0.clock.lock().unwrap().1, Duration::ZERO);
        tokio::time::sleep(delay).await;
        let sent = SystemTime::UNIX_EPOCH + Duration::from_nanos(call.realtime_ns);
        *self.0.clock.lock().unwrap() = (sent.elapsed().unwrap(), delay / 2);
        Ok(Empty::default())
    }

    async fn create_process(&self, _: &TtrpcContext, call: CreateProcessRequest) -> ttrpc::Result<ProcessCreated> {
        let process = serde_json::from_slice(&call.process).unwrap();
        self.0.add((call.container_id, call.exec_id), &process, call.stdio.unwrap_or_default())
    }

    async fn start_process(&self, _: &TtrpcContext, call: ProcessRequest) -> ttrpc::Result<Empty> {
        let program = self.0.program(&call.container_id, &call.exec_id)?;
        if !["exit", "cat", "deaf", "greedy", "late", "sleep"].contains(&program.args[0].as_str()) {
            return Err(refuse(Code::NOT_FOUND, "no such program"));
        }
        tokio::spawn(run(Arc::clone(&self.0), program));
        Ok(Empty::default())
    }

    async fn wait_process(&self, _: &TtrpcContext, call: ProcessRequest) -> ttrpc::Result<ProcessExit> {
        let program = self.0.program(&call.container_id, &call.exec_id)?;
        let code = program.exit.subscribe().wait_for(Option::is_some).await.unwrap().unwrap();
        Ok(ProcessExit { code, oom_kills: *self.0.oom_kills.borrow(), ..Default::default() })
    }

    async fn signal_process(&self, _: &TtrpcContext, call: SignalProcessRequest) -> ttrpc::Result<Empty> {
        let program = self.0.program(&call.container_id, &call.exec_id)?;
        if program.args[0] == "deaf" {
            std::future::pending::<()>().await;
        }
        let sent = program.exit.send_if_modified(|exit| exit.is_none() && exit.replace(128 + call.signal).is_none());
        if sent { Ok(Empty::default()) } else { Err(refuse(Code::NOT_FOUND, "exited")) }
    }

    async fn list_processes(&self, _: &TtrpcContext, call: ContainerRequest) -> ttrpc::Result<ProcessList> {
        let programs = self.0.programs.lock().unwrap();
        let mine =
            programs.iter().filter(|((id, _), program)| *id == call.container_id && program.exit.borrow().is_none());
        let mut processes: Vec<_> = mine
            .map(|((_, exec), _)| process_list::Entry {
                pid: if exec.is_empty() { 1 } else { 2 },
                exec_id: exec.clone(),
                ..Default::default()
            })
            .collect();
        processes.sort_by_key(|entry| entry.pid);
        Ok(ProcessList { processes, ..Default::default() })
    }

    async fn freeze_container(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<Empty> {
        self.0.is_frozen.store(true, Ordering::SeqCst);
        Ok(Empty::default())
    }

    async fn thaw_container(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<Empty> {
        self.0.is_frozen.store(false, Ordering::SeqCst);
        Ok(Empty::default())
    }

    async fn update_container(&self, _: &TtrpcContext, call: UpdateContainerRequest) -> ttrpc::Result<Empty> {
        let resources: serde_json::Value = serde_json::from_slice(&call.resources).unwrap();
        if resources["memory"]["limit"] == 1 {
            return Err(refuse(Code::INVALID_ARGUMENT, "too little"));
        }
        self.0.updates.lock().unwrap().push(resources);
        Ok(Empty::default())
    }

    async fn read_stats(&self, _: &TtrpcContext, _: ContainerRequest) -> ttrpc::Result<ContainerStats> {
        let events = MemoryEvents { oom_kill: *self.0.oom_kills.borrow(), ..Default::default() };
        Ok(ContainerStats { memory_events: Some(events).into(), ..Default::default() })
    }

    async fn wait_out_of_memory(&self, _: &TtrpcContext, call: WaitOutOfMemoryRequest) -> ttrpc::Result<OutOfMemory> {
        let oom_kills = *self.0.oom_kills.subscribe().wait_for(|kills| *kills > call.known).await.unwrap();
        Ok(OutOfMemory { oom_kills, ..Default::default() })
    }

    async fn delete_process(&self, _: &TtrpcContext, call: ProcessRequest) -> ttrpc::Result<ProcessExit> {
        self.0.programs.lock().unwrap().remove(&(call.container_id, call.exec_id));
        Ok(ProcessExit::default())
    }
}

/// A fake VM. `crash` makes it go away.
pub(crate) struct FakeSandbox {
    guest: Arc<Guest>,
    agent: AgentClient,
    server: tokio::sync::Mutex<Server>,
    tokens: AtomicU64,
    has_network: AtomicBool,
    gone: watch::Sender<Option<String>>,
}

impl FakeSandbox {
    pub(crate) async fn start() -> Arc<Self> {
        let (host, guest_end) = UnixStream::pair().unwrap();
        let guest = Arc::new(Guest::default());
        let connections = futures::stream::iter([Ok(guest_end)]);
        let mut server = Server::new()
            .add_listener(Listener::new(connections))
            .register_service(create_agent(Arc::new(FakeAgent(Arc::clone(&guest)))));
        server.start().await.unwrap();
        Arc::new(Self {
            guest,
            agent: AgentClient::new(Client::new(Socket::new(host))),
            server: server.into(),
            tokens: AtomicU64::new(1),
            has_network: AtomicBool::new(false),
            gone: watch::Sender::new(None),
        })
    }

    /// The guest panics: streams and the agent's connection break, the VMM ends.
    pub(crate) async fn crash(&self, reason: &str) {
        self.gone.send_replace(Some(reason.to_owned()));
        self.guest.streams.lock().unwrap().clear();
        self.server.lock().await.disconnect().await;
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.guest.is_frozen.load(Ordering::SeqCst)
    }

    /// What Update brought so far.
    pub(crate) fn updates(&self) -> Vec<serde_json::Value> {
        self.guest.updates.lock().unwrap().clone()
    }

    /// How far its clock is behind the host's.
    pub(crate) fn lateness(&self) -> Duration {
        self.guest.clock.lock().unwrap().0
    }

    /// A process that the host doesn't know is killed for lack of memory.
    pub(crate) fn kill_for_memory(&self) {
        self.guest.oom_kills.send_modify(|kills| *kills += 1);
    }

    pub(crate) fn has_network(&self) -> bool {
        self.has_network.load(Ordering::SeqCst)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    /// Whether a container was deleted in the guest, which flushes its files.
    pub(crate) fn is_flushed(&self, container: &str) -> bool {
        !self.guest.programs.lock().unwrap().contains_key(&(container.to_owned(), String::new()))
    }
}

#[async_trait::async_trait]
impl Sandbox for FakeSandbox {
    fn pid(&self) -> u32 {
        PID
    }

    fn joined(&self) -> Option<&crate::remains::Remains> {
        None
    }

    fn recorder(&self) -> Option<supermachine::Recorder> {
        None
    }

    fn is_warm(&self) -> bool {
        false
    }

    fn agent(&self) -> &AgentClient {
        &self.agent
    }

    async fn connect_network(&self) -> Result<(), SandboxError> {
        assert!(self.guest.programs.lock().unwrap().is_empty(), "a container has its network from the start");
        self.has_network.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn rootfs(&self) -> Result<RootFilesystem, SandboxError> {
        Ok(RootFilesystem::default())
    }

    async fn settle(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    fn sockets(&self) -> Vec<agent_proto::Socket> {
        Vec::new()
    }

    fn resolver(&self) -> Option<Resolver> {
        None
    }

    async fn serve_sockets(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn watch_volumes(&self) {}

    fn devices(&self) -> Vec<agent_proto::BlockDevice> {
        Vec::new()
    }

    /// Nothing is ever written.
    async fn export(&self, directory: &Path, known: &str) -> Result<Export, SandboxError> {
        if self.is_gone() {
            return Err(SandboxError::Gone);
        }
        let is_written = known != "first";
        if is_written {
            std::fs::create_dir(directory).unwrap();
        }
        Ok(Export { generation: "first".to_owned(), is_written })
    }

    async fn open_stream(&self) -> Result<Stream, SandboxError> {
        let (host, guest) = UnixStream::pair().unwrap();
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        self.guest.streams.lock().unwrap().insert(token, guest);
        Ok(Stream { token, socket: host })
    }

    async fn exited(&self) -> String {
        self.gone.subscribe().wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    async fn leave(&self) {
        self.shutdown().await;
    }

    async fn shutdown(&self) {
        if !self.is_gone() {
            self.crash("told to").await;
        }
    }
}

/// What was asked for, and the fake that was handed out.
type Launched = (Launch, Arc<FakeSandbox>);

/// Hands out one fake VM after another, and remembers them.
#[derive(Clone, Default)]
pub(crate) struct FakeLauncher {
    pub(crate) launched: Arc<Mutex<Vec<Launched>>>,
}

#[async_trait::async_trait]
impl Launcher for FakeLauncher {
    async fn locate(&self, mounts: &[Mount]) -> Result<Option<RootLayers>, BundleError> {
        Ok(Some(RootLayers {
            layers: mounts.iter().map(|mount| PathBuf::from(&mount.source)).collect(),
            ..Default::default()
        }))
    }

    async fn launch(&self, launch: Launch) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let sandbox = FakeSandbox::start().await;
        self.launched.lock().unwrap().push((launch, Arc::clone(&sandbox)));
        Ok(sandbox)
    }

    async fn show(&self, _: &StartRecord) {}
}
