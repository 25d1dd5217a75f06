//! Confinement of the VMM, whose guest is hostile.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, mount_remount, open_tree,
    unmount,
};
use rustix::process::{Resource, Rlimit, chdir, geteuid, getrlimit, pivot_root, setrlimit};
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

/// What a server of the host's files acts for the guest's users with. Not `CAP_DAC_READ_SEARCH`, by which any file can
/// be opened whose handle is guessed (open_by_handle_at(2)).
const FILE_RIGHTS: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP);
/// Files that a server may have open; each that the guest remembers counts.
const FILE_LIMIT: u64 = 1 << 20;
/// Entries that can be made in a root directory that is shared: one for each volume.
const SHARED_ROOT: &CStr = c"size=1m,nr_inodes=4096,mode=0555";
/// The other has only itself.
const EMPTY_ROOT: &CStr = c"size=4k,nr_inodes=2,mode=0555";
const NOTHING: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What a server of files needs of the process that it runs in.
#[derive(Debug)]
pub struct FileAccess {
    /// `/proc/self/fd`, with nothing above it.
    pub open_files: OwnedFd,
    /// How many files the process may have open.
    pub limit: u64,
}

/// Changes the network, then gives up the view of the host's files, all capabilities and core dumps, for good. Before
/// any thread is started, since each of these is a property of threads that new ones inherit. What was opened stays
/// open. With `serves_files` some capabilities stay permitted, and every thread is to say which it is:
/// [`keep_no_rights`] or [`keep_file_rights`].
///
/// Without root's rights there is nothing to give up, and the process goes on as it is.
pub fn lock_down(network: Network, serves_files: bool) -> Result<Option<FileAccess>, JailError> {
    let mut access = None;
    if geteuid().is_root() {
        change_network(network)?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(refused("leave the host's mounts"))?;
        if serves_files {
            access = Some(FileAccess { open_files: open_files()?, limit: raise_file_limit()? });
        }
        leave_host_files(serves_files)?;
    } else {
        eprintln!("not root: the VMM keeps its view of the host's files and network");
    }
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, no_core).map_err(cannot("forbid core dumps"))?;
    set_no_new_privs(true).map_err(cannot("forbid new privileges"))?;
    let none = CapabilitySet::empty();
    let permitted = if access.is_some() { FILE_RIGHTS } else { none };
    set_rights(CapabilitySets { effective: none, permitted, inheritable: none })?;
    Ok(access)
}

/// Gives up what [`lock_down`] left to this thread.
pub fn keep_no_rights() -> Result<(), JailError> {
    let none = CapabilitySet::empty();
    set_rights(CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Takes up what [`lock_down`] left to this thread, which gets a working directory of its own: some operations change
/// it for a moment.
pub fn keep_file_rights() -> Result<(), JailError> {
    unshare(CloneFlags::CLONE_FS).map_err(refused("have a working directory of its own"))?;
    set_rights(CapabilitySets { effective: FILE_RIGHTS, permitted: FILE_RIGHTS, inheritable: CapabilitySet::empty() })
}

fn set_rights(sets: CapabilitySets) -> Result<(), JailError> {
    set_capabilities(None, sets).map_err(cannot("drop capabilities"))
}

fn open_files() -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, c"/proc/self/fd", flags).map_err(cannot("open /proc/self/fd"))
}

/// As far as this process may.
fn raise_file_limit() -> Result<u64, JailError> {
    let raised = Rlimit { current: Some(FILE_LIMIT), maximum: Some(FILE_LIMIT) };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return Ok(FILE_LIMIT);
    }
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(cannot("raise the limit of open files"))?;
    Ok(maximum.unwrap_or(FILE_LIMIT))
}

/// Changes the process's root to an empty read-only file system, in a mount namespace that holds nothing else.
fn leave_host_files(is_shared: bool) -> Result<(), JailError> {
    let step = "change to an empty root directory";
    // All mounts, since what is unmounted below would otherwise be unmounted on the host too.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(cannot(step))?;
    let (flags, data) = if is_shared { (NOTHING, SHARED_ROOT) } else { (NOTHING | MountFlags::RDONLY, EMPTY_ROOT) };
    // Any folder that every host has would do.
    mount("none", "/proc", "tmpfs", flags, Some(data)).map_err(cannot(step))?;
    if is_shared {
        // This mount of it alone: who shares something makes an entry for it through another.
        mount_remount("/proc", MountFlags::BIND | MountFlags::RDONLY | NOTHING, c"").map_err(cannot(step))?;
    }
    chdir("/proc").map_err(cannot(step))?;
    // Puts the old root on top of the new one, from where it is taken away (pivot_root(2), NOTES).
    pivot_root(".", ".").map_err(cannot(step))?;
    unmount(".", UnmountFlags::DETACH).map_err(cannot(step))?;
    chdir("/").map_err(cannot(step))
}
