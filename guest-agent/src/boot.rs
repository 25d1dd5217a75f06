//! From the kernel's hand-over to an agent that listens.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::machine::{Network, VirtualMachine, set_apart};
use crate::server::{self, Places, Sockets};
use crate::{cgroup, sys, vsock, zygote};

/// Ports of the agent's RPC service and of standard streams.
const RPC_PORT: u32 = 1024;
const STREAM_PORT: u32 = 1025;
/// Where the cgroup hierarchy is.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Where files that containers bring are kept.
const FILES: &str = "/run/supermachine/files";
/// Threads that there may be: as many as a kernel with 64 bits can number (`PID_MAX_LIMIT`). Containers have limits of their
/// own.
const MAX_THREADS: u32 = 1 << 22;
/// Open files that containers may be allowed at most.
const MAX_OPEN_FILES: u64 = 1 << 20;

/// A guest that can't be brought up.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Not process 1: the agent would mount over a living system.
    #[error("this program is process 1 of a guest and must not be run as anything else")]
    NotInit,
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Brings the guest up and serves the host. Never returns in a working guest.
pub fn run() -> Result<(), BootError> {
    if std::process::id() != 1 {
        return Err(BootError::NotInit);
    }
    mount_all()?;
    configure()?;
    let network = Network::new(set_apart().map_err(step("set the network cards apart"))?);
    let zygote = zygote::fork(PathBuf::from(CGROUP_ROOT)).map_err(step("fork the zygote"))?;
    let rpc = vsock::listen_on(RPC_PORT).map_err(step("listen for requests"))?;
    let streams = vsock::listen_on(STREAM_PORT).map_err(step("listen for streams"))?;
    let dials = vsock::listen_on(agent_proto::DIAL_PORT).map_err(step("listen for what is dialled"))?;
    let host_sockets = vsock::listen_on(agent_proto::SOCKET_PORT).map_err(step("listen for the host's sockets"))?;
    // Connections wait in the sockets' queues until the runtime is there.
    if let Err(error) = vsock::knock(RPC_PORT) {
        eprintln!("agent: no answer from the host: {error}");
    }
    eprintln!("agent: listening");
    let sockets = Sockets { rpc, streams, dials, host_sockets, zygote };
    let places = Places {
        cgroups: PathBuf::from(CGROUP_ROOT),
        files: PathBuf::from(FILES),
        sockets: PathBuf::from(agent_proto::SOCKETS),
    };
    server::serve(sockets, VirtualMachine::new(network), places).map_err(step("serve"))
}

/// Moves from the initial RAM file system, which can't be pivoted away from, to a root that containers can leave, and
/// mounts what every Linux system has.
fn mount_all() -> Result<(), BootError> {
    let root = Path::new("/root");
    fs::create_dir_all(root).map_err(step("make /root"))?;
    let (safe, tidy) = (MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, MountFlags::NOSUID);
    let table = [
        ("tmpfs", "", MountFlags::empty(), "mode=755,size=16m"),
        ("proc", "proc", safe, ""),
        ("sysfs", "sys", safe, ""),
        ("cgroup2", "sys/fs/cgroup", safe, "nsdelegate,memory_recursiveprot"),
        ("devtmpfs", "dev", tidy | MountFlags::NOEXEC, "mode=755"),
        ("devpts", "dev/pts", tidy | MountFlags::NOEXEC, "mode=620,ptmxmode=666"),
        ("tmpfs", "run", tidy | MountFlags::NODEV, "mode=755"),
        ("tmpfs", "tmp", tidy | MountFlags::NODEV, "mode=1777"),
    ];
    for (kind, path, flags, data) in table {
        let target = root.join(path);
        let what = || format!("mount {kind} on /{path}");
        fs::create_dir_all(&target).map_err(step(what()))?;
        let data = std::ffi::CString::new(data).map_err(|error| step(what())(error.into()))?;
        mount(kind, &target, kind, flags, data.as_c_str()).map_err(|error| step(what())(error.into()))?;
    }
    let moved = rustix::process::chdir(root)
        .and_then(|()| mount_move(".", "/"))
        .and_then(|()| rustix::process::chroot("."))
        .and_then(|()| rustix::process::chdir("/"));
    moved.map_err(|error| step("move to the new root")(error.into()))
}

fn configure() -> Result<(), BootError> {
    cgroup::delegate_controllers(Path::new(CGROUP_ROOT)).map_err(step("delegate cgroup controllers"))?;
    // Out of memory, the kernel must find another victim; containers get their own values.
    fs::write("/proc/self/oom_score_adj", "-1000").map_err(step("protect the agent from the OOM killer"))?;
    // What the kernel derives from the little memory that it boots with would hold for a machine of any size.
    for (limit, value) in [("kernel/threads-max", MAX_THREADS.to_string()), ("fs/file-max", i64::MAX.to_string())] {
        fs::write(Path::new("/proc/sys").join(limit), value).map_err(step(format!("raise {limit}")))?;
    }
    for limit in [Resource::RLIMIT_NPROC, Resource::RLIMIT_SIGPENDING] {
        setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY)
            .map_err(|error| step(format!("raise {limit:?}"))(error.into()))?;
    }
    let limited = setrlimit(Resource::RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES);
    limited.map_err(|error| step("raise the limit of open files")(error.into()))?;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|error| step("make a socket")(error.into()))?;
    sys::raise_loopback(socket.as_fd()).map_err(step("bring up the loopback interface"))
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> BootError {
    let step = step.into();
    move |source| BootError::Step { step, source }
}
