//! Where containers are tried: a mount namespace of this process alone, whose root is shared as a system manager would
//! leave it, with version 2 of cgroups alone where runtimes look for cgroups.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where cgroups are.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";

/// Moves this process, which must have one thread, to where containers can be tried.
pub(crate) fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
    let none = None::<&str>;
    for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(none, "/", none, propagation | MsFlags::MS_REC, none).context("set the propagation of /")?;
    }
    if !Path::new(CGROUPS).join("cgroup.controllers").exists() {
        mount(Some("cgroup2"), CGROUPS, Some("cgroup2"), MsFlags::empty(), none).context("mount cgroup2")?;
    }
    Ok(())
}
