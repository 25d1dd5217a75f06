//! What a process is allowed and limited to, besides its namespaces: the `process` object of a spec.

use std::path::Path;

use nix::sys::personality;
use oci_spec::runtime::{PosixRlimit, PosixRlimitType, Process, User};
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit};
use rustix::thread::{Gid, Uid};

use super::error::{SetupError, Step};
use super::program::{Program, complete_environment, validate_environment};
use super::spec::ProcessPlan;

/// The id that means none.
const NO_ID: u32 = u32::MAX;

/// Refuses what can't be met before anything was made.
pub(crate) fn validate(process: &Process) -> Result<(), SetupError> {
    if process.args().as_deref().unwrap_or_default().is_empty() {
        return Err(SetupError::spec("process.args", "must name a program"));
    }
    if !process.cwd().is_absolute() {
        return Err(SetupError::spec("process.cwd", "must be an absolute path"));
    }
    validate_environment(process.env().as_deref().unwrap_or_default())?;
    let user = process.user();
    let further = user.additional_gids().iter().flatten().map(|gid| ("additionalGids", *gid));
    for (name, id) in [("uid", user.uid()), ("gid", user.gid())].into_iter().chain(further) {
        if id == NO_ID {
            return Err(SetupError::spec(format!("process.user.{name}"), format_args!("{id} means none")));
        }
    }
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        if limit.soft() > limit.hard() {
            return Err(SetupError::spec(limit_field(index, limit), "the soft limit exceeds the hard one"));
        }
    }
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(SetupError::spec("process.oomScoreAdj", format_args!("{score} isn't between -1000 and 1000")))
        }
        _ => Ok(()),
    }
}

/// Gives a process (`None` is this one) its OOM score and its limits, which takes the agent's privileges and `/proc`.
pub(crate) fn limit(pid: Option<Pid>, plan: &ProcessPlan) -> Result<(), SetupError> {
    let score = plan.oom_score;
    let directory = pid.map_or("self".to_owned(), |pid| pid.as_raw_pid().to_string());
    std::fs::write(format!("/proc/{directory}/oom_score_adj"), score.to_string())
        .step("set process.oomScoreAdj to", score)?;
    let bound = |value: u64| Some(value).filter(|value| *value != libc::RLIM_INFINITY);
    for (index, limit) in plan.process.rlimits().iter().flatten().enumerate() {
        let new = Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) };
        rustix::process::prlimit(pid, resource(limit.typ()), new).step("set", limit_field(index, limit))?;
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
pub(crate) fn become_process(plan: &ProcessPlan) -> Result<Program, SetupError> {
    let process = &plan.process;
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    rustix::process::umask(Mode::from_raw_mode(plan.umask));
    if let Some(filter) = plan.filter.as_ref().filter(|_| !no_new_privileges) {
        filter.install()?;
    }
    // A directory that root may not enter can be the user's own (a mounted home), and the other way round.
    let entered = match rustix::process::chdir(process.cwd()) {
        Err(Errno::ACCESS | Errno::PERM) => false,
        result => result.on("change to process.cwd", process.cwd()).map(|()| true)?,
    };
    plan.capabilities.drop_bounding()?;
    set_user(process.user())?;
    if !entered {
        rustix::process::chdir(process.cwd()).on("change to process.cwd", process.cwd())?;
    }
    require_inside(process.cwd())?;
    plan.capabilities.apply()?;
    let environment = complete_environment(process.env().as_deref(), process.user().uid());
    let program = Program::find(process.args().as_deref().unwrap_or_default(), environment)?;
    if let Some(persona) = plan.personality {
        personality::set(persona).step("set", "linux.personality")?;
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set", "no new privileges")?;
        if let Some(filter) = &plan.filter {
            filter.install()?;
        }
    }
    Ok(program)
}

/// Keeps container processes from looking into this one before it has become harmless (`ptrace`, `/proc/<pid>/fd`).
pub(crate) fn hide_from_tracing() -> std::io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// A directory may be named by a descriptor that this process still holds (`/proc/self/fd/7`) and lie outside the
/// container's root: then the kernel has no absolute path for it.
fn require_inside(directory: &Path) -> Result<(), SetupError> {
    let real = rustix::process::getcwd(Vec::new()).on("find", directory)?;
    if real.to_bytes().starts_with(b"/") {
        return Ok(());
    }
    Err(SetupError::spec("process.cwd", format_args!("{} is outside the container", directory.display())))
}

fn set_user(user: &User) -> Result<(), SetupError> {
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_keep_capabilities(true).step("keep", "capabilities")?;
    let denied = std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"));
    if !denied {
        rustix::thread::set_thread_groups(&groups).step("set", "process.user.additionalGids (are they mapped?)")?;
    }
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| not_mapped("gid", user.gid(), error))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| not_mapped("uid", user.uid(), error))?;
    rustix::thread::set_keep_capabilities(false).step("release", "capabilities")
}

fn not_mapped(name: &str, id: u32, error: Errno) -> SetupError {
    let field = format!("process.user.{name}");
    match error {
        Errno::INVAL => SetupError::spec(field, format_args!("{id} isn't mapped in the container's user namespace")),
        _ => SetupError::System { action: "set", object: field, source: error.into() },
    }
}

fn limit_field(index: usize, limit: &PosixRlimit) -> String {
    format!("process.rlimits[{index}] ({})", limit.typ())
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
