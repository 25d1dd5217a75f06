//! What a process is allowed and limited to, besides its namespaces: the `process` object of a spec.

use nix::sys::resource::Resource;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process, User};
use rustix::fs::{FileType, Mode};
use rustix::process::DumpableBehavior;
use rustix::thread::{Gid, Uid};

use super::capabilities::CapabilityPlan;
use super::error::{SetupError, Step};
use super::program::{Program, complete_environment, enter_directory};
use crate::seccomp::Filter;

/// Refuses what can't be met before anything was made.
pub(crate) fn validate(process: &Process) -> Result<(), SetupError> {
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(SetupError::spec("process.args", "must name a program"));
    }
    if !process.cwd().is_absolute() {
        return Err(SetupError::spec("process.cwd", "must be an absolute path"));
    }
    for (name, present) in [
        ("ioPriority", process.io_priority().is_some()),
        ("scheduler", process.scheduler().is_some()),
        ("execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ] {
        if present {
            return Err(SetupError::spec(format!("process.{name}"), "isn't supported; leave it out"));
        }
    }
    Ok(())
}

/// What needs the agent's privileges and `/proc`: before the root is changed.
pub(crate) fn apply_privileged(process: &Process) -> Result<(), SetupError> {
    let adjustment = process.oom_score_adj().unwrap_or(0);
    std::fs::write("/proc/self/oom_score_adj", adjustment.to_string()).step("set OOM score to", adjustment)?;
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        set_limit(index, limit)?;
    }
    Ok(())
}

/// Lets a process of another user open its own streams again through `/dev/stdout` and its like.
pub(crate) fn own_streams(user: &User) -> Result<(), SetupError> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for stream in streams {
        let stat = rustix::fs::fstat(stream).step("stat", "standard stream")?;
        let shared = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if stat.st_uid != user.uid() && !shared {
            // Refused where the user isn't mapped: then the stream still works, only not by its path.
            let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(user.uid())), None);
        }
    }
    Ok(())
}

/// Fails if there is no such program, so that a container without one isn't made. Whether the process's user may
/// execute it shows when it has become that user.
pub(crate) fn require_program(process: &Process) -> Result<(), SetupError> {
    Program::require(process.args().as_deref().unwrap_or_default(), process.env().as_deref().unwrap_or_default())
}

/// Turns this process into the one of the spec, up to execve. Order matters: a filter needs either privilege or
/// no-new-privileges, and after the user is changed nothing privileged works.
pub(crate) fn become_process(
    process: &Process,
    capabilities: &CapabilityPlan,
    filter: Option<&Filter>,
) -> Result<Program, SetupError> {
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let user = process.user();
    rustix::process::umask(Mode::from_raw_mode(user.umask().unwrap_or(0o022)));
    let entered = enter_directory(process.cwd());
    if let Some(filter) = filter.filter(|_| !no_new_privileges) {
        filter.install()?;
    }
    capabilities.drop_bounding()?;
    set_user(user)?;
    capabilities.apply()?;
    // A directory that root may not enter can be the user's own (a mounted home), and the other way round.
    entered.or_else(|_as_root| enter_directory(process.cwd()))?;
    let environment = complete_environment(process.env().as_deref().unwrap_or_default(), user.uid());
    let program = Program::find(process.args().as_deref().unwrap_or_default(), environment)?;
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set", "no new privileges")?;
        if let Some(filter) = filter {
            filter.install()?;
        }
    }
    Ok(program)
}

/// Keeps container processes from looking into this one before it has become harmless (`ptrace`, `/proc/<pid>/fd`).
pub(crate) fn hide_from_tracing() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn set_user(user: &User) -> Result<(), SetupError> {
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_keep_capabilities(true).step("keep", "capabilities")?;
    let denied = std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"));
    if !denied {
        rustix::thread::set_thread_groups(&groups).step("set", "additional groups")?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("set group to", user.gid())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("set user to", user.uid())?;
    rustix::thread::set_keep_capabilities(false).step("release", "capabilities")
}

fn set_limit(index: usize, limit: &PosixRlimit) -> Result<(), SetupError> {
    if limit.soft() > limit.hard() {
        return Err(SetupError::spec(format!("process.rlimits[{index}]"), "the soft limit exceeds the hard one"));
    }
    nix::sys::resource::setrlimit(resource(limit.typ()), limit.soft(), limit.hard()).step("set", limit.typ())
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}
