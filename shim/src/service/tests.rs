//! The Task service over ttrpc, with a fake VM behind it and a fake containerd for its events.

mod exits;
mod exports;
mod freezer;
mod memory;
mod resources;
mod traces;

use std::time::Duration;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, CreateTaskRequest, DeleteRequest, Empty, ExecProcessRequest,
    ForwardRequest, KillRequest, PidsRequest, ShutdownRequest, StartRequest, StateRequest, Status, WaitRequest,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::{Events, TaskClient, create_events};
use containerd_shim_protos::types::mount::Mount;
use nix::sys::stat::Mode;
use supermachine::shim::ShimClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use ttrpc::Code;
use ttrpc::asynchronous::transport::{Listener, Socket};
use ttrpc::asynchronous::{Client, Server, TtrpcContext};
use ttrpc::context::{Context, with_duration};

use super::*;
use crate::sandbox::fake::{FakeLauncher, FakeSandbox, LATE_BYTES, PID};

struct Topics(UnboundedSender<String>);

#[async_trait::async_trait]
impl Events for Topics {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        self.0.send(request.envelope.topic.clone()).unwrap();
        Ok(Empty::default())
    }
}

struct Bench {
    dir: tempfile::TempDir,
    client: TaskClient,
    shim: ShimClient,
    launcher: FakeLauncher,
    topics: UnboundedReceiver<String>,
    ended: Arc<Notify>,
    _servers: [Server; 2],
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (sender, topics) = unbounded_channel();
        let events = dir.path().join("events");
        let mut containerd = Server::new()
            .bind(&format!("unix://{}", events.display()))
            .unwrap()
            .register_service(create_events(Arc::new(Topics(sender))));
        containerd.start().await.unwrap();
        let (launcher, ended) = (FakeLauncher::default(), Arc::new(Notify::new()));
        let publisher = Publisher::start(events.to_str().unwrap(), "ns");
        let service = Service::new("ns", Box::new(launcher.clone()), publisher, Arc::clone(&ended));
        let (host, shim) = tokio::net::UnixStream::pair().unwrap();
        let mut server = Server::new()
            .add_listener(Listener::new(futures::stream::iter([Ok(shim)])))
            .register_service(service.register());
        server.start().await.unwrap();
        let client = Client::new(Socket::new(host));
        let (shim, client) = (ShimClient::new(client.clone()), TaskClient::new(client));
        Self { dir, client, shim, launcher, topics, ended, _servers: [containerd, server] }
    }

    fn write_spec(&self, args: &[&str]) {
        let hosts = self.dir.path().join("hosts");
        std::fs::write(&hosts, "").unwrap();
        let spec = serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": args},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/etc/hosts", "source": hosts, "options": ["bind"]}],
            "hooks": {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > created; echo written by a hook > hosts"]}],
                      "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", "cat > stopped"]}]},
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "network", "path": "/ns"}],
                "resources": {"cpu": {"shares": 512}}
            }
        });
        std::fs::write(self.dir.path().join("config.json"), spec.to_string()).unwrap();
    }

    async fn create(&self, args: &[&str], stdin: &str, stdout: &str) -> ttrpc::Result<u32> {
        self.write_spec(args);
        let request = CreateTaskRequest {
            id: "c1".into(),
            bundle: self.dir.path().display().to_string(),
            rootfs: vec![Mount { type_: "bind".into(), source: "/layer".into(), ..Default::default() }],
            stdin: stdin.into(),
            stdout: stdout.into(),
            ..Default::default()
        };
        Ok(self.client.create(within(), &request).await?.pid)
    }

    async fn start(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: "c1".into(), exec_id: exec_id.into(), ..Default::default() };
        Ok(self.client.start(within(), &request).await?.pid)
    }

    async fn wait(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest { id: "c1".into(), exec_id: exec_id.into(), ..Default::default() };
        Ok(self.client.wait(within(), &request).await?.exit_status)
    }

    async fn delete(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest { id: "c1".into(), exec_id: exec_id.into(), ..Default::default() };
        Ok(self.client.delete(within(), &request).await?.exit_status)
    }

    async fn exec(&self, exec_id: &str, args: &[&str]) -> ttrpc::Result<Empty> {
        let process = serde_json::json!({"args": args, "cwd": "/"});
        let spec = Any { value: process.to_string().into_bytes(), ..Default::default() };
        let request = ExecProcessRequest {
            id: "c1".into(),
            exec_id: exec_id.into(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.client.exec(within(), &request).await
    }

    async fn kill(&self, exec_id: &str, signal: u32) -> ttrpc::Result<Empty> {
        let request = KillRequest { id: "c1".into(), exec_id: exec_id.into(), signal, ..Default::default() };
        self.client.kill(within(), &request).await
    }

    fn sandbox(&self) -> Arc<FakeSandbox> {
        Arc::clone(&self.launcher.launched.lock().unwrap()[0].1)
    }

    async fn status(&self, exec_id: &str) -> Status {
        let request = StateRequest { id: "c1".into(), exec_id: exec_id.into(), ..Default::default() };
        self.client.state(within(), &request).await.unwrap().status.unwrap()
    }

    async fn topics<const N: usize>(&mut self) -> [String; N] {
        let mut topics = [const { String::new() }; N];
        for topic in &mut topics {
            *topic = timeout(Duration::from_secs(10), self.topics.recv()).await.unwrap().unwrap();
        }
        assert!(self.topics.try_recv().is_err(), "no more events than expected");
        topics
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        path.display().to_string()
    }
}

fn within() -> Context {
    with_duration(Duration::from_secs(20))
}

fn code<T>(result: ttrpc::Result<T>) -> Code {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => status.code.unwrap(),
        Err(other) => panic!("not a status: {other}"),
        Ok(_) => panic!("an error was expected"),
    }
}

#[tokio::test]
async fn a_container_lives_and_its_events_are_in_order() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.create(&["exit", "7"], "", "").await.unwrap(), PID);
    assert_eq!(bench.status("").await, Status::CREATED);
    assert_eq!(code(bench.create(&["exit", "7"], "", "").await), Code::ALREADY_EXISTS);
    let connected = bench.client.connect(within(), &ConnectRequest { id: "c1".into(), ..Default::default() }).await;
    assert_eq!(connected.unwrap().task_pid, PID);
    assert_eq!(bench.start("").await.unwrap(), PID);
    assert_eq!(bench.wait("").await.unwrap(), 7);
    assert_eq!(bench.status("").await, Status::STOPPED);
    assert_eq!(code(bench.start("").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(bench.kill("", 9).await), Code::NOT_FOUND);
    assert_eq!(bench.delete("").await.unwrap(), 7);
    assert_eq!(code(bench.delete("").await), Code::NOT_FOUND);
    let topics = ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"];
    assert_eq!(bench.topics().await, topics);
    assert!(std::fs::read_to_string(bench.dir.path().join("created")).unwrap().contains("\"pid\":4242"));
    assert!(bench.sandbox().has_network());
    assert!(std::fs::read_to_string(bench.dir.path().join("stopped")).unwrap().contains("stopped"));
    let (launch, sandbox) = bench.launcher.launched.lock().unwrap().pop().unwrap();
    assert_eq!(launch.network, supermachine::Network::Of("/ns".into()));
    timeout(Duration::from_secs(10), crate::sandbox::Sandbox::exited(sandbox.as_ref())).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_late_is_set_again_until_it_is_right() {
    let bench = Bench::new().await;
    bench.create(&["tardy"], "", "").await.unwrap();
    let late = bench.sandbox().lateness();
    assert!(late <= Duration::from_millis(20), "{late:?}");
}

#[tokio::test]
async fn a_failed_start_says_why_and_leaves_a_stopped_task() {
    let mut bench = Bench::new().await;
    let (stdout, mut end) = (bench.fifo("out"), Vec::new());
    bench.create(&["no-such-program"], "", &stdout).await.unwrap();
    let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
    assert_eq!(code(bench.start("").await), Code::INVALID_ARGUMENT);
    reader.read_to_end(&mut end).await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 127);
    assert_eq!(bench.delete("").await.unwrap(), 127);
    assert_eq!(bench.topics().await, ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
}

#[tokio::test]
async fn an_exit_is_told_once_the_output_is_delivered() {
    let bench = Bench::new().await;
    let stdout = bench.fifo("out");
    bench.create(&["late"], "", &stdout).await.unwrap();
    let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
    let (count, counted) = tokio::sync::watch::channel(0);
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(1..) = reader.read(&mut buffer).await.inspect(|read| count.send_modify(|sum| *sum += read)) {}
        *count.borrow()
    });
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 0);
    // What isn't read yet is in the FIFO (pipe(7): 64 KiB) or in the reader's buffer.
    assert!(*counted.borrow() + 2 * (1 << 16) >= LATE_BYTES, "{} bytes before the exit", *counted.borrow());
    assert_eq!(reading.await.unwrap(), LATE_BYTES);
}

#[tokio::test]
async fn a_vm_ends_before_the_exit_of_its_init_is_told() {
    let bench = Bench::new().await;
    bench.create(&["exit", "3"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 3);
    let sandbox = Arc::clone(&bench.launcher.launched.lock().unwrap()[0].1);
    assert!(sandbox.is_flushed("c1") && sandbox.is_gone());
    assert_eq!(bench.delete("").await.unwrap(), 3);
}

#[tokio::test]
async fn a_vm_that_holds_output_is_kept_until_delete() {
    let bench = Bench::new().await;
    let stdout = bench.fifo("out");
    bench.create(&["late"], "", &stdout).await.unwrap();
    let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 0);
    let sandbox = Arc::clone(&bench.launcher.launched.lock().unwrap()[0].1);
    assert!(!sandbox.is_gone());
    let mut text = Vec::new();
    let (read, deleted) = tokio::join!(reader.read_to_end(&mut text), bench.delete(""));
    assert_eq!((read.unwrap(), deleted.unwrap()), (LATE_BYTES, 0));
    assert!(sandbox.is_flushed("c1") && sandbox.is_gone());
}

#[tokio::test]
async fn stdin_reaches_stdout_and_close_io_ends_it() {
    let bench = Bench::new().await;
    let (stdin, stdout) = (bench.fifo("in"), bench.fifo("out"));
    bench.create(&["cat"], &stdin, &stdout).await.unwrap();
    let mut reader = pipe::OpenOptions::new().open_receiver(&stdout).unwrap();
    // Until the task is known to containerd, no byte may be taken: a client's CloseIO would come too early.
    let early = pipe::OpenOptions::new().open_sender(&stdin).unwrap_err();
    assert_eq!(early.raw_os_error(), Some(nix::libc::ENXIO));
    bench.start("").await.unwrap();
    let mut writer = pipe::OpenOptions::new().open_sender(&stdin).unwrap();
    let sent = vec![b'x'; 1 << 20];
    let (read, write) = (
        async {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).await.unwrap();
            text
        },
        async {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
            let request = CloseIORequest { id: "c1".into(), stdin: true, ..Default::default() };
            bench.client.close_io(within(), &request).await.unwrap();
        },
    );
    assert_eq!(tokio::join!(read, write).0, sent);
    assert_eq!(bench.wait("").await.unwrap(), 0);
}

#[tokio::test]
async fn execs_come_and_go_before_their_container() {
    let mut bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    bench.exec("e1", &["exit", "42"]).await.unwrap();
    assert_eq!(code(bench.exec("e1", &["exit", "0"]).await), Code::ALREADY_EXISTS);
    assert_eq!(code(bench.kill("e1", 9).await), Code::FAILED_PRECONDITION);
    assert_eq!(bench.status("e1").await, Status::CREATED);
    bench.start("e1").await.unwrap();
    assert_eq!(bench.wait("e1").await.unwrap(), 42);
    assert_eq!(bench.delete("e1").await.unwrap(), 42);
    assert_eq!(code(bench.delete("e1").await), Code::NOT_FOUND);

    bench.exec("e2", &["sleep"]).await.unwrap();
    bench.start("e2").await.unwrap();
    let pids = bench.client.pids(within(), &PidsRequest { id: "c1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(pids.processes.iter().map(|process| process.pid).collect::<Vec<_>>(), [PID, (1 << 22) + 2]);
    assert!(pids.processes[1].info.is_some());
    assert_eq!(code(bench.delete("").await), Code::FAILED_PRECONDITION);
    bench.kill("e2", 15).await.unwrap();
    bench.kill("", 9).await.unwrap();
    assert_eq!((bench.wait("e2").await.unwrap(), bench.wait("").await.unwrap()), (143, 137));
    assert_eq!(code(bench.exec("e3", &["sleep"]).await), Code::FAILED_PRECONDITION);
    assert_eq!(
        bench.topics().await,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/exit",
        ]
    );
}

#[tokio::test]
async fn everyone_who_waits_is_told() {
    let bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    let waiting = futures::future::join_all((0..50).map(|_| bench.wait("")));
    let (statuses, ()) = tokio::join!(waiting, async {
        bench.start("").await.unwrap();
        bench.kill("", 15).await.unwrap();
    });
    assert!(statuses.into_iter().all(|status| status.unwrap() == 143));
    assert_eq!(bench.wait("").await.unwrap(), 143);
    let (late, deleted) = tokio::join!(bench.wait(""), bench.delete(""));
    assert_eq!((late.unwrap(), deleted.unwrap()), (143, 143));
    assert_eq!(code(bench.wait("").await), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_vm_that_goes_away_ends_its_processes() {
    let bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    let sandbox = bench.sandbox();
    let (status, ()) = tokio::join!(bench.wait(""), sandbox.crash("kernel panic"));
    assert_eq!(status.unwrap(), 137);
    assert_eq!(bench.delete("").await.unwrap(), 137);
}

#[tokio::test]
async fn a_guest_that_hangs_is_killed_with_its_vm() {
    let bench = Bench::new().await;
    bench.create(&["deaf"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    let ended = timeout(Duration::from_secs(5), bench.wait(""));
    let (killed, ended) = tokio::join!(bench.kill("", 9), ended);
    killed.unwrap();
    assert_eq!(ended.unwrap().unwrap(), 137);
    assert_eq!(bench.delete("").await.unwrap(), 137);
}

#[tokio::test]
async fn a_created_container_can_be_killed_or_deleted() {
    let mut bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.kill("", 9).await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 137);
    assert_eq!(bench.delete("").await.unwrap(), 137);
    bench.create(&["sleep"], "", "").await.unwrap();
    assert_eq!(bench.delete("").await.unwrap(), 137);
    let topics = ["/tasks/create", "/tasks/exit", "/tasks/delete"];
    assert_eq!(bench.topics::<6>().await, [topics, topics].concat()[..]);
}

#[tokio::test]
async fn shutdown_waits_for_the_last_task() {
    let bench = Bench::new().await;
    bench.create(&["exit", "0"], "", "").await.unwrap();
    bench.client.shutdown(within(), &ShutdownRequest::default()).await.unwrap();
    assert!(timeout(Duration::from_millis(50), bench.ended.notified()).await.is_err());
    bench.delete("").await.unwrap();
    timeout(Duration::from_secs(10), bench.ended.notified()).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_says_so() {
    let bench = Bench::new().await;
    let checkpoint = CheckpointTaskRequest { id: "c1".into(), ..Default::default() };
    assert_eq!(code(bench.client.checkpoint(within(), &checkpoint).await), Code::UNIMPLEMENTED);
    assert_eq!(code(bench.start("").await), Code::NOT_FOUND);
    bench.write_spec(&["sleep"]);
    let bare =
        CreateTaskRequest { id: "c2".into(), bundle: bench.dir.path().display().to_string(), ..Default::default() };
    let Err(ttrpc::Error::RpcStatus(status)) = bench.client.create(within(), &bare).await else {
        panic!("a bundle without rootfs was accepted")
    };
    assert_eq!(status.code, Code::INVALID_ARGUMENT.into());
    assert!(status.message.contains(&bench.dir.path().display().to_string()), "{}", status.message);
}

#[tokio::test]
async fn both_versions_have_every_method() {
    let publisher = Publisher::start("/nowhere", "ns");
    let service = Service::new("ns", Box::new(FakeLauncher::default()), publisher, Arc::default());
    let services = service.register();
    assert_eq!(services.len(), 3, "both versions, and what the node daemon asks for");
    for name in [V2, V3] {
        assert_eq!(services[name].methods.len(), 17, "{name}");
    }
}
