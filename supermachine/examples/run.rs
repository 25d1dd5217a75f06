//! Runs a command in its own virtual machine, without containerd.
//!
//! ```text
//! run [--bake] [--times N] [--upper FILE] LAYER.squashfs... -- COMMAND [ARGUMENT...]
//! ```
//!
//! Layers are given lowest first. The VM is restored if the bake store has a bake for this machine, which `--bake`
//! sees to; else it is booted. The command's output goes to ours, and its exit code is ours. How the VM started and
//! where the time went is said on standard error. Everything else comes from the configuration file
//! (`SUPERMACHINE_CONFIG`).

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::json;
use supermachine::agent::{CreateContainerRequest, ProcessRequest, Stdio};
use supermachine::{Baker, Launch, Machine, Mode, RootDisks, Stream, Vm};
use supermachine_config::Config;
use tokio::io::AsyncReadExt;

/// Name of the one container in the VM.
const CONTAINER: &str = "run";

#[derive(Debug, Default)]
struct Options {
    bake: bool,
    times: usize,
    layers: Vec<PathBuf>,
    upper: Option<PathBuf>,
    command: Vec<String>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options { times: 1, ..Options::default() };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bake" => options.bake = true,
            "--times" => options.times = arguments.next().context("--times needs a number")?.parse()?,
            "--upper" => options.upper = Some(arguments.next().context("--upper needs a file")?.into()),
            "--" => {
                options.command = arguments.collect();
                return Ok(options);
            }
            layer => options.layers.push(layer.into()),
        }
    }
    bail!("usage: run [--bake] [--times N] [--upper FILE] LAYER.squashfs... -- COMMAND [ARGUMENT...]")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = parse(std::env::args().skip(1))?;
    let machine = Machine::load(&Config::load()?)?;
    if options.bake {
        let baked = Baker::new(&machine).base().await?;
        eprintln!("bake {}{}", baked.key, if baked.already_there { " (already there)" } else { "" });
    }
    let mut code = 0;
    for turn in 0..options.times {
        code = run(&machine, &options, turn).await?;
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

async fn run(machine: &Machine, options: &Options, turn: usize) -> Result<u32> {
    let id = format!("example-{}-{turn}", std::process::id());
    let launch = Launch {
        state_dir: std::env::temp_dir().join(&id),
        id,
        root: RootDisks { layers: options.layers.clone(), upper: options.upper.clone(), ..RootDisks::default() },
        hostname: "supermachine".to_owned(),
        ..Launch::default()
    };
    let vm = Vm::start(machine, launch).await?;
    report(&vm);
    let result = run_command(&vm, &options.command).await;
    if let Some(exit) = vm.exited().now() {
        eprintln!("the VM is gone: {exit}");
    }
    vm.shutdown().await;
    result
}

fn report(vm: &Vm) {
    let started = vm.started();
    let time = started.timeline;
    eprintln!("{started}");
    if let Mode::Restored(_) = started.mode {
        eprintln!("  from {}", started.reason);
    }
    eprintln!(
        "  spawned {} us, answered {} us; VMM: opened {} us, mapped {} us, wired {} us, running {} us; guest {}",
        time.spawned_us,
        time.answered_us,
        time.opened_us,
        time.mapped_us,
        time.wired_us,
        time.running_us,
        started.kernel_release
    );
}

async fn run_command(vm: &Vm, command: &[String]) -> Result<u32> {
    let (stdout, stderr) = (vm.open_stream()?, vm.open_stream()?);
    let request = CreateContainerRequest {
        container_id: CONTAINER.to_owned(),
        spec: serde_json::to_vec(&spec(command, vm.rootfs().writable))?,
        rootfs: Some(vm.rootfs()).into(),
        stdio: Some(Stdio { stdout: stdout.token, stderr: stderr.token, ..Stdio::default() }).into(),
        ..CreateContainerRequest::default()
    };
    let process = ProcessRequest { container_id: CONTAINER.to_owned(), ..ProcessRequest::default() };
    let agent = vm.agent();
    agent.create_container(ttrpc::context::Context::default(), &request).await.context("create the container")?;
    agent.start_process(ttrpc::context::Context::default(), &process).await.context("start the command")?;
    let output = async {
        tokio::try_join!(pass_on(stdout, std::io::stdout()), pass_on(stderr, std::io::stderr()))
            .context("pass on output")
    };
    let wait = async { agent.wait_process(ttrpc::context::Context::default(), &process).await.context("wait") };
    let (_, exit) = tokio::try_join!(output, wait)?;
    agent.delete_process(ttrpc::context::Context::default(), &process).await.context("delete the container")?;
    Ok(exit.code)
}

/// Copies a stream to its end. Our own output may block: a command line tool has nothing better to do.
async fn pass_on(mut stream: Stream, mut to: impl std::io::Write) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match stream.socket.read(&mut bytes).await? {
            0 => return to.flush(),
            read => to.write_all(&bytes[..read])?,
        }
    }
}

/// A container that an ordinary program feels at home in.
fn spec(command: &[String], is_writable: bool) -> serde_json::Value {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "cwd": "/",
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": !is_writable },
        "hostname": "run",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"])
        ],
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }] }
    })
}
