//! Confinement of the VMM, whose guest is hostile.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Resource, Rlimit, chdir, geteuid, pivot_root, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, move_into_link_name_space, set_capabilities, set_no_new_privs,
};

/// The process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("can't {step}")]
pub struct JailError {
    step: &'static str,
    #[source]
    source: Errno,
}

fn cannot(step: &'static str) -> impl FnOnce(Errno) -> JailError {
    move |source| JailError { step, source }
}

fn refused(step: &'static str) -> impl FnOnce(nix::errno::Errno) -> JailError {
    move |error| JailError { step, source: Errno::from_raw_os_error(error as i32) }
}

/// Whose network the process is to have. Hooks look for the container's network through the VMM's process id.
#[derive(Debug)]
pub enum Network {
    /// The one it has.
    Inherited,
    /// A new one.
    New,
    /// That of a namespace.
    Of(OwnedFd),
}

fn change_network(network: Network) -> Result<(), JailError> {
    match network {
        Network::Inherited => Ok(()),
        Network::New => unshare(CloneFlags::CLONE_NEWNET).map_err(refused("make a network namespace")),
        Network::Of(namespace) => move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(cannot("enter the network namespace")),
    }
}

/// Changes the network, then gives up the view of the host's files, all capabilities and core dumps, for good. Before
/// any thread is started, since each of these is a property of threads that new ones inherit. What was opened stays
/// open.
///
/// Without root's rights there is nothing to give up, and the process goes on as it is.
pub fn lock_down(network: Network) -> Result<(), JailError> {
    if geteuid().is_root() {
        change_network(network)?;
        leave_host_files()?;
    } else {
        eprintln!("not root: the VMM keeps its view of the host's files and network");
    }
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, no_core).map_err(cannot("forbid core dumps"))?;
    set_no_new_privs(true).map_err(cannot("forbid new privileges"))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(cannot("drop capabilities"))
}

/// Changes the process's root to an empty read-only file system, in a mount namespace that holds nothing else.
fn leave_host_files() -> Result<(), JailError> {
    let step = "change to an empty root directory";
    unshare(CloneFlags::CLONE_NEWNS).map_err(refused(step))?;
    // All mounts, since what is unmounted below would otherwise be unmounted on the host too.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(cannot(step))?;
    let nothing = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Any folder that every host has would do.
    mount("none", "/proc", "tmpfs", nothing, Some(c"size=4k,nr_inodes=2,mode=0555")).map_err(cannot(step))?;
    chdir("/proc").map_err(cannot(step))?;
    // Puts the old root on top of the new one, from where it is taken away (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(cannot(step))?;
    unmount(".", UnmountFlags::DETACH).map_err(cannot(step))?;
    chdir("/").map_err(cannot(step))
}
