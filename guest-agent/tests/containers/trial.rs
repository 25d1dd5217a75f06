//! An agent in a process of its own, and a host that talks to it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agent_proto::{
    AgentClient, CreateContainerRequest, CreateProcessRequest, Empty, File, ProcessExit, ProcessRequest, ResumeRequest,
    SignalProcessRequest, Stdio,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use crate::ground::CGROUPS;

/// First argument of the process that is the agent.
pub(crate) const AGENT: &str = "--agent";

const BUSYBOX: &str = "/usr/bin/busybox";
const PROGRAMS: [&str; 19] = [
    "sh", "cat", "echo", "sleep", "id", "ls", "mount", "hostname", "true", "stty", "ps", "grep", "head", "touch",
    "readlink", "stat", "sysctl", "wc", "nc",
];

/// Why this machine can't run containers, if it can't.
pub(crate) fn obstacle() -> Option<&'static str> {
    let root = rustix::process::geteuid().is_root();
    match (root, Path::new(BUSYBOX).exists()) {
        (false, _) => Some("it needs root"),
        (_, false) => Some("it needs busybox-static"),
        _ => None,
    }
}

/// The agent's process.
pub(crate) fn serve(folder: &Path, cgroup: &Path) -> Result<()> {
    let listen = |name| UnixListener::bind(folder.join(name)).map(OwnedFd::from);
    let doors = [listen("rpc")?, listen("streams")?, listen("dials")?, listen("host-sockets")?];
    let ground = supermachine_agent::Ground {
        rootfs: &folder.join("rootfs"),
        cgroup_root: cgroup,
        files: &folder.join("files"),
        sockets: &folder.join("sockets"),
    };
    supermachine_agent::serve_directory(doors, &ground)?;
    Ok(())
}

/// An agent to try things on.
pub(crate) struct Trial {
    pub(crate) agent: AgentClient,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    process: Child,
}

/// What a finished process left.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: u32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Trial {
    pub(crate) async fn start() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let folder = tempfile::Builder::new().prefix("agent-trial.").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        make_rootfs(&folder.path().join("rootfs"))?;
        let name = format!("agent-trial-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = Path::new(CGROUPS).join(name);
        fs::create_dir(&cgroup)?;
        for parent in [Path::new(CGROUPS), &cgroup] {
            enable_controllers(parent).with_context(|| format!("enable controllers in {}", parent.display()))?;
        }
        let mut command = Command::new(std::env::current_exe()?);
        let process = command.arg(AGENT).arg(folder.path()).arg(&cgroup).kill_on_drop(true).spawn()?;
        let rpc = folder.path().join("rpc");
        for _ in 0..500 {
            if folder.path().join("host-sockets").exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let client = ttrpc::r#async::Client::connect(&format!("unix://{}", rpc.display())).await?;
        Ok(Self { agent: AgentClient::new(client), folder, cgroup, process })
    }

    /// Ends the agent; nothing of any container may be left.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(&self.cgroup)?.flatten().filter(|entry| entry.path().is_dir()).collect();
        for entry in &left {
            fs::write(entry.path().join("cgroup.kill"), "1")?;
        }
        self.process.start_kill()?;
        self.process.wait().await?;
        for _ in 0..200 {
            for entry in &left {
                let _ = fs::remove_dir(entry.path());
            }
            if fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(!self.cgroup.exists(), "{} can't be removed", self.cgroup.display());
        ensure!(left.is_empty(), "cgroups were left: {left:?}");
        let files = self.folder.path().join("files");
        ensure!(!files.exists() || fs::read_dir(files)?.next().is_none(), "files were left");
        Ok(())
    }

    pub(crate) async fn resume(&self) -> Result<()> {
        let request = ResumeRequest { entropy: vec![0; 64], realtime_ns: 1, ..Default::default() };
        self.agent.resume(context(), &request).await?;
        Ok(())
    }

    /// Opens a stream and answers its token.
    pub(crate) async fn stream(&self) -> Result<(u64, UnixStream)> {
        static TOKEN: AtomicU64 = AtomicU64::new(1);
        let token = TOKEN.fetch_add(1, Ordering::Relaxed);
        let mut stream = UnixStream::connect(self.folder.path().join("streams")).await?;
        stream.write_all(&token.to_le_bytes()).await?;
        Ok((token, stream))
    }

    pub(crate) async fn create(
        &self,
        id: &str,
        spec: &Value,
        stdio: Stdio,
        files: Vec<File>,
    ) -> Result<u32, ttrpc::Error> {
        let request = CreateContainerRequest {
            container_id: id.to_owned(),
            spec: spec.to_string().into_bytes(),
            stdio: Some(stdio).into(),
            files,
            ..Default::default()
        };
        self.agent.create_container(context(), &request).await.map(|created| created.pid)
    }

    pub(crate) async fn create_further(
        &self,
        id: &str,
        name: &str,
        process: &Value,
        stdio: Stdio,
    ) -> Result<u32, ttrpc::Error> {
        let request = CreateProcessRequest {
            container_id: id.to_owned(),
            exec_id: name.to_owned(),
            process: process.to_string().into_bytes(),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        self.agent.create_process(context(), &request).await.map(|created| created.pid)
    }

    pub(crate) async fn start_process(&self, id: &str, name: &str) -> Result<(), ttrpc::Error> {
        self.agent.start_process(context(), &named(id, name)).await.map(drop)
    }

    pub(crate) async fn wait(&self, id: &str, name: &str) -> Result<u32, ttrpc::Error> {
        self.agent.wait_process(context(), &named(id, name)).await.map(|exit| exit.code)
    }

    pub(crate) async fn delete(&self, id: &str, name: &str) -> Result<ProcessExit, ttrpc::Error> {
        self.agent.delete_process(context(), &named(id, name)).await
    }

    pub(crate) async fn kill(&self, id: &str, name: &str, signal: i32, all: bool) -> Result<(), ttrpc::Error> {
        let request = SignalProcessRequest {
            container_id: id.to_owned(),
            exec_id: name.to_owned(),
            signal: signal as u32,
            all,
            ..Default::default()
        };
        self.agent.signal_process(context(), &request).await.map(drop)
    }

    pub(crate) async fn prepare_capture(&self) -> Result<(), ttrpc::Error> {
        self.agent.prepare_capture(context(), &Empty::new()).await.map(drop)
    }

    /// Runs a container to its end and deletes it.
    pub(crate) async fn run(&self, id: &str, spec: &Value) -> Result<Outcome> {
        self.run_with(id, spec, Vec::new()).await
    }

    pub(crate) async fn run_with(&self, id: &str, spec: &Value, files: Vec<File>) -> Result<Outcome> {
        let streams = Streams::open(self, &spec["process"]).await?;
        self.create(id, spec, streams.stdio.clone(), files).await?;
        self.finish_process(id, "", streams).await
    }

    /// Runs a further process to its end and deletes it.
    pub(crate) async fn run_further(&self, id: &str, name: &str, process: &Value) -> Result<Outcome> {
        let streams = Streams::open(self, process).await?;
        self.create_further(id, name, process, streams.stdio.clone()).await?;
        self.finish_process(id, name, streams).await
    }

    /// Starts a process, waits for its end and deletes it.
    async fn finish_process(&self, id: &str, name: &str, mut streams: Streams) -> Result<Outcome> {
        if let Err(error) = self.start_process(id, name).await {
            self.delete(id, name).await?;
            return Err(error.into());
        }
        if streams.stderr.is_some() {
            drop(streams.stdin.take());
        }
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let read_errors = async {
            match &mut streams.stderr {
                Some(stream) => stream.read_to_string(&mut stderr).await,
                None => Ok(0),
            }
        };
        tokio::try_join!(streams.stdout.read_to_string(&mut stdout), read_errors)?;
        let code = self.wait(id, name).await?;
        ensure!(self.delete(id, name).await?.code == code, "Delete and Wait disagree");
        Ok(Outcome { code, stdout, stderr })
    }
}

/// A process's streams, from the host's side.
struct Streams {
    stdio: Stdio,
    stdin: Option<UnixStream>,
    stdout: UnixStream,
    /// None with a terminal.
    stderr: Option<UnixStream>,
}

impl Streams {
    /// Opens those of a process as its spec describes it.
    async fn open(trial: &Trial, process: &Value) -> Result<Self> {
        let (stdin, input) = trial.stream().await?;
        let (stdout, output) = trial.stream().await?;
        let stdio = Stdio { stdin, stdout, ..Default::default() };
        let stdin = Some(input);
        if process["terminal"] == true {
            return Ok(Self { stdio: Stdio { terminal: true, ..stdio }, stdin, stdout: output, stderr: None });
        }
        let (stderr, errors) = trial.stream().await?;
        Ok(Self { stdio: Stdio { stderr, ..stdio }, stdin, stdout: output, stderr: Some(errors) })
    }
}

/// A call's context: none may take long.
pub(crate) fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(Duration::from_secs(30))
}

/// The status code of a failed call.
pub(crate) fn status(error: &ttrpc::Error) -> Option<(ttrpc::Code, String)> {
    match error {
        ttrpc::Error::RpcStatus(status) => Some((status.code(), status.message().to_owned())),
        _ => None,
    }
}

/// The spec a container engine writes for `args`, more or less.
pub(crate) fn spec(args: &[&str]) -> Value {
    let none = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.2.0",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "trial",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": none},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": none},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore", "/proc/acpi", "/proc/keys", "/proc/no/such"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/nosuch"],
        },
    })
}

/// The `process` object for `args`.
pub(crate) fn process(args: &[&str]) -> Value {
    let capabilities =
        ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];
    json!({
        "args": args,
        "env": ["PATH=/bin:/usr/bin", "MARK=here"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 10]},
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 777, "hard": 888}],
    })
}

/// A shell command's arguments.
pub(crate) fn shell(command: &str) -> [&str; 3] {
    ["sh", "-c", command]
}

fn named(id: &str, name: &str) -> ProcessRequest {
    ProcessRequest { container_id: id.to_owned(), exec_id: name.to_owned(), ..Default::default() }
}

/// Lets the children of a cgroup use every controller.
fn enable_controllers(cgroup: &Path) -> Result<()> {
    let controllers = fs::read_to_string(cgroup.join("cgroup.controllers"))?;
    let enabled: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    Ok(fs::write(cgroup.join("cgroup.subtree_control"), enabled.join(" "))?)
}

fn make_rootfs(root: &Path) -> Result<()> {
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "root"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox"))?;
    for program in PROGRAMS {
        symlink("busybox", root.join("bin").join(program))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/var/web:/bin/sh\n")?;
    fs::write(root.join("bin/data"), "\x7fnothing a kernel runs")?;
    fs::set_permissions(root.join("bin/data"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}
