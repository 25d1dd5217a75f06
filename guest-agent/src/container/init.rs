//! What a new process does from its birth to execve.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{Gid, ThreadNameSpaceType, Uid};
use serde::{Deserialize, Serialize};

use super::error::{SetupError, Step};
use super::rootfs::{self, Surroundings};
use super::scheduling;
use super::settings;
use super::spec::{ContainerPlan, ProcessPlan};
use super::sysctl;
use super::terminal::{Terminal, TerminalSize};
use crate::packet;
use crate::refusal::Refusal;
use crate::sys;

/// What a new process tells the agent over its control socket. The socket closes at execve: that tells the rest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Progress {
    /// Set up, and waiting for [`Order::Go`]. The packet carries the terminal's controlling end, if there is one.
    Ready,
    /// Failed, before or after the order.
    Failed(Refusal),
}

/// What the agent tells a new process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Execute the program.
    Go,
}

/// What a new process got from the agent.
pub(crate) struct Endowment {
    /// Where [`Progress`] goes and the [`Order`] comes from.
    pub(crate) control: OwnedFd,
    /// Standard streams; none with a terminal.
    pub(crate) streams: Option<[OwnedFd; 3]>,
    pub(crate) terminal: Option<TerminalSize>,
}

/// The container a further process goes into.
pub(crate) struct Residence<'a> {
    /// Handle (pidfd) of the container's first process.
    pub(crate) leader: BorrowedFd<'a>,
    /// `CLONE_NEW*` flags of the namespaces it has of its own.
    pub(crate) namespaces: u64,
}

/// The life of a container's first process up to execve. `mapped` closes when the ids of its user namespace are mapped.
pub(crate) fn run_first(
    plan: &ContainerPlan,
    places: &Surroundings<'_>,
    endowment: &Endowment,
    mapped: Option<File>,
) -> ! {
    let set_up = || {
        enter_new_namespaces(plan, mapped)?;
        rootfs::enter(&plan.spec, places)
    };
    conclude(endowment, run(&plan.process, endowment, set_up))
}

/// The life of a further process up to execve.
pub(crate) fn run_further(plan: &ProcessPlan, residence: &Residence<'_>, endowment: &Endowment) -> ! {
    let set_up = || {
        settings::limit(None, plan)?;
        scheduling::keep_on_processors(&plan.process)?;
        move_in(residence)?;
        lead_session()?;
        endowment.terminal.map(Terminal::open).transpose()
    };
    conclude(endowment, run(plan, endowment, set_up))
}

/// Sets up, waits for the order, and executes the program; returns only if that failed.
fn run(
    plan: &ProcessPlan,
    endowment: &Endowment,
    set_up: impl FnOnce() -> Result<Option<Terminal>, SetupError>,
) -> SetupError {
    let prepare = || {
        let terminal = set_up()?;
        connect_streams(endowment, terminal.as_ref())?;
        settings::own_streams(plan.process.user())?;
        settings::require_program(&plan.process)?;
        plan.scheduling.apply()?;
        sys::mark_close_on_exec(3).step("mark", "descriptors")?;
        await_order(endowment.control.as_fd(), terminal)?;
        let program = settings::become_process(plan)?;
        sys::reset_signals().step("reset", "signals")?;
        Ok(program)
    };
    match prepare() {
        Ok(program) => program.execute(),
        Err(error) => error,
    }
}

#[allow(clippy::exit, reason = "this process exists to become the program; there is nothing to return to")]
fn conclude(endowment: &Endowment, error: SetupError) -> ! {
    // If the agent doesn't listen any more there is nobody to tell.
    let _ = packet::send(&endowment.control, &Progress::Failed(error.into()), &[], &[]);
    std::process::exit(127)
}

fn enter_new_namespaces(plan: &ContainerPlan, mapped: Option<File>) -> Result<(), SetupError> {
    let namespaces = &plan.namespaces;
    match mapped {
        // In a user namespace its maker has limited it, who may.
        Some(mut mapped) => {
            mapped.read_to_end(&mut Vec::new()).step("wait for", "id mappings")?;
            become_root()?;
        }
        None => settings::limit(None, &plan.process)?,
    }
    namespaces.unshare()?;
    lead_session()?;
    set_names(plan)?;
    if namespaces.creates(libc::CLONE_NEWNET) {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        sys::raise_loopback(socket.step("make", "socket")?.as_fd()).step("bring up", "loopback interface")?;
    }
    for (key, value) in plan.linux().and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten() {
        let path = Path::new("/proc/sys").join(sysctl::path(key)?);
        std::fs::write(&path, value).step("set linux.sysctl", format_args!("{key} = {value}"))?;
    }
    Ok(())
}

fn set_names(plan: &ContainerPlan) -> Result<(), SetupError> {
    if let Some(name) = plan.spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::sethostname(name.as_bytes()).step("set hostname to", name)?;
    }
    if let Some(name) = plan.spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        rustix::system::setdomainname(name.as_bytes()).step("set domainname to", name)?;
    }
    Ok(())
}

/// Moves into the namespaces of a running container, except the one for process ids: that is the maker's business.
fn move_in(residence: &Residence<'_>) -> Result<(), SetupError> {
    let kinds = u32::try_from(residence.namespaces & !(libc::CLONE_NEWPID as u64)).unwrap_or_default();
    let kinds = ThreadNameSpaceType::from_bits_retain(kinds);
    rustix::thread::move_into_thread_name_spaces(residence.leader, kinds).step("join", "the container's namespaces")?;
    if kinds.contains(ThreadNameSpaceType::USER) { become_root() } else { Ok(()) }
}

/// In a user namespace: the id 0 of that namespace.
fn become_root() -> Result<(), SetupError> {
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).step("become", "the namespace's root group")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step("become", "the namespace's root user")
}

fn lead_session() -> Result<(), SetupError> {
    rustix::process::setsid().step("lead", "a session")?;
    // A kernel without keyrings has none to keep apart.
    let _ = sys::join_session_keyring(c"container");
    Ok(())
}

fn connect_streams(endowment: &Endowment, terminal: Option<&Terminal>) -> Result<(), SetupError> {
    if let Some(terminal) = terminal {
        return terminal.take();
    }
    let Some([stdin, stdout, stderr]) = &endowment.streams else { return Ok(()) };
    rustix::stdio::dup2_stdin(stdin).step("connect", "standard input")?;
    rustix::stdio::dup2_stdout(stdout).step("connect", "standard output")?;
    rustix::stdio::dup2_stderr(stderr).step("connect", "standard error")
}

/// Reports that the process is set up and waits until it may run.
fn await_order(control: BorrowedFd<'_>, terminal: Option<Terminal>) -> Result<(), SetupError> {
    let passed: Vec<BorrowedFd<'_>> = terminal.iter().map(|terminal| terminal.controller.as_fd()).collect();
    packet::send(control, &Progress::Ready, &[], &passed).step("report to", "the agent")?;
    // From here on the agent alone holds the terminal's controlling end, so that closing it hangs up.
    drop(terminal);
    let packet = packet::receive(control).step("hear from", "the agent")?.ok_or(SetupError::Withdrawn)?;
    let (Order::Go, _) = packet.decode().step("understand", "the agent")?;
    Ok(())
}
