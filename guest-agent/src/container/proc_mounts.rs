//! What may be mounted on `/proc` and inside it: whoever can put something else there can fool everything that looks
//! there for what it is allowed to.

use std::os::fd::BorrowedFd;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::error::{SetupError, Step};

/// `f_type` of a proc file system (`linux/magic.h`).
const PROC_MAGIC: u32 = 0x9fa0;

/// Files that may be replaced, because they tell of the whole machine.
const REPLACEABLE: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Refuses a mount at `place` of the root, with all links resolved. `bound` is what a bind mount binds.
pub(crate) fn check(
    index: usize,
    mount: &Mount,
    place: &Path,
    bound: Option<BorrowedFd<'_>>,
) -> Result<(), SetupError> {
    let refuse = |why: &str| {
        let at = if place == mount.destination() { String::new() } else { format!(" ({})", place.display()) };
        let reason = format_args!("{}{at} {why}", mount.destination().display());
        Err(SetupError::spec(format!("mounts[{index}].destination"), reason))
    };
    if place == Path::new("/") {
        return refuse("is the root itself");
    }
    let kind = mount.typ().as_deref().filter(|_| bound.is_none());
    if matches!(kind, Some("proc" | "sysfs")) && place != Path::new("/").join(clean(mount.destination())) {
        return refuse("is reached through a link, where this file system may not be mounted");
    }
    let Ok(inside) = place.strip_prefix("/proc") else { return Ok(()) };
    if REPLACEABLE.iter().any(|file| inside == Path::new(file)) {
        return Ok(());
    }
    if inside != Path::new("") {
        return refuse("is inside /proc, where nothing may be mounted");
    }
    let is_proc = match bound {
        Some(tree) => rustix::fs::fstatfs(tree).on("stat source of", mount.destination())?.f_type as u32 == PROC_MAGIC,
        None => kind == Some("proc"),
    };
    if is_proc { Ok(()) } else { refuse("takes a proc file system alone") }
}

/// A path without dots, relative to its root.
fn clean(path: &Path) -> std::path::PathBuf {
    use std::path::Component;
    path.components().fold(std::path::PathBuf::new(), |mut clean, part| {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        clean
    })
}
