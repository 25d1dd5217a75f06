//! A container's view of files: its root, mounts and devices, and what of `/proc` and `/sys` it may not see.

use std::ffi::c_ulong;
use std::os::fd::AsFd;
use std::path::Path;

use mount_tree::{MountAttributes, attach, copy_tree, set_mount_attributes};
use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};

use super::devices;
use super::error::{SetupError, Step};
use super::files::{self, InjectedFile};
use super::mounts::{self, MountContext, mount_all, new_filesystem};
use super::options::MountOptions;
use super::root::Root;
use super::terminal::{Terminal, TerminalSize};

/// What the spec doesn't say about a container.
pub(crate) struct Surroundings<'a> {
    /// Its root file system in the guest.
    pub(crate) rootfs: &'a Path,
    /// Files to bind into it after its mounts.
    pub(crate) files: &'a [InjectedFile],
    /// Its cgroup directory in the guest.
    pub(crate) cgroup: &'a Path,
    pub(crate) cgroup_namespace: bool,
    pub(crate) user_namespace: bool,
    /// Whether it has its own network namespace.
    pub(crate) network_namespace: bool,
    /// Whether its first process has a terminal.
    pub(crate) terminal: Option<TerminalSize>,
}

const READ_ONLY: MountAttributes = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, clear: 0, propagation: 0 };

/// Refuses what can't be met before anything was made.
pub(crate) fn validate(spec: &Spec) -> Result<(), SetupError> {
    root_propagation(spec).map(drop)
}

/// Assembles the root, moves this process into it and, where asked, opens a terminal there.
pub(crate) fn enter(spec: &Spec, places: &Surroundings<'_>) -> Result<Option<Terminal>, SetupError> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let linux = spec.linux().as_ref();
    prepare_propagation(spec, places.rootfs)?;
    let tree = copy_tree(places.rootfs, true).on("open root file system", places.rootfs)?;
    let point = Root::open(places.rootfs).on("open root file system", places.rootfs)?;
    attach(tree.as_fd(), point.as_fd()).on("mount root file system", places.rootfs)?;
    let root = Root::open(places.rootfs).on("open root file system", places.rootfs)?;
    let context = MountContext {
        root: &root,
        cgroup: places.cgroup,
        cgroup_namespace: places.cgroup_namespace,
        shares_sysfs: places.user_namespace && !places.network_namespace,
    };
    mount_all(&context, mounts)?;
    files::bind_all(&root, places.files)?;
    if !mounts::binds_dev(mounts) {
        let devices = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
        devices::populate(&root, devices, places.user_namespace)?;
    }
    pivot(&root)?;
    if let Some(process) = spec.process() {
        std::fs::create_dir_all(process.cwd()).on("make process.cwd", process.cwd())?;
    }
    // The descriptor of before the pivot is the same directory, now `/`.
    let terminal = places.terminal.map(Terminal::open).transpose()?;
    if let Some(terminal) = &terminal {
        terminal.bind_console(&root)?;
    }
    mounts::finish(&root, mounts)?;
    restrict(spec, &root)?;
    Ok(terminal)
}

/// Makes `root` the root of this process and lets go of the old one.
fn pivot(root: &Root) -> Result<(), SetupError> {
    let old = Root::open(Path::new("/")).step("open", "old root")?;
    rustix::process::fchdir(root).step("enter", "new root")?;
    // Both arguments the same: the old root ends up on top of the new one, where it can be detached (pivot_root(2)).
    rustix::process::pivot_root(".", ".").step("pivot to", "new root")?;
    rustix::process::fchdir(&old).step("enter", "old root")?;
    // Where the spec shares mounts with the guest, detaching would be shared too.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(".", slave).step("make slave", "old root")?;
    unmount(".", UnmountFlags::DETACH).step("detach", "old root")?;
    rustix::process::chdir("/").step("enter", "/")
}

/// Keeps what is mounted from here on from appearing in the guest, unless the spec shares it. The mount that holds the
/// root must be private: the root would be its slave, and couldn't be pivoted to if it were shared.
fn prepare_propagation(spec: &Spec, rootfs: &Path) -> Result<(), SetupError> {
    let slave = (libc::MS_SLAVE, true);
    let (kind, recursive) = root_propagation(spec)?.unwrap_or(slave);
    let flags = MountPropagationFlags::from_bits_retain(u32::try_from(kind).unwrap_or_default());
    let depth = if recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
    mount_change("/", flags | depth).step("set propagation of", "/")?;
    for path in rootfs.ancestors() {
        match mount_change(path, MountPropagationFlags::PRIVATE) {
            // Nothing is mounted on it.
            Err(Errno::INVAL) => {}
            result => return result.on("make private", path),
        }
    }
    Ok(())
}

/// Propagation type of the root and whether for all below, if the spec names one.
fn root_propagation(spec: &Spec) -> Result<Option<(c_ulong, bool)>, SetupError> {
    let word = spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    if word.is_empty() {
        return Ok(None);
    }
    match MountOptions::parse(&[word.to_owned()]).propagations.first() {
        Some(propagation) => Ok(Some(*propagation)),
        None => Err(SetupError::spec("linux.rootfsPropagation", format_args!("{word:?} is no propagation type"))),
    }
}

fn restrict(spec: &Spec, root: &Root) -> Result<(), SetupError> {
    let linux = spec.linux().as_ref();
    // Private it is already.
    if let Some((kind, recursive)) = root_propagation(spec)?.filter(|(kind, _)| *kind != libc::MS_PRIVATE) {
        let attributes = MountAttributes { propagation: kind, ..Default::default() };
        set_mount_attributes(root.as_fd(), attributes, recursive).step("set propagation of", "/")?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        set_mount_attributes(root.as_fd(), READ_ONLY, false).step("make read-only", "/")?;
    }
    for path in linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten() {
        make_read_only(root, Path::new(path))?;
    }
    for path in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
        mask(root, Path::new(path))?;
    }
    Ok(())
}

/// Makes `path` read-only, but not what is mounted below.
fn make_read_only(root: &Root, path: &Path) -> Result<(), SetupError> {
    let point = match root.find(path, OFlags::PATH) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => result.on("make read-only", path)?,
    };
    let tree = copy_tree(path, true).on("make read-only", path)?;
    set_mount_attributes(tree.as_fd(), READ_ONLY, false).on("make read-only", path)?;
    attach(tree.as_fd(), point.as_fd()).on("make read-only", path)
}

/// Hides what is at `path`: a file behind `/dev/null`, a directory behind an empty read-only one.
fn mask(root: &Root, path: &Path) -> Result<(), SetupError> {
    let point = match root.find(path, OFlags::PATH) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => result.on("mask", path)?,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&point).on("mask", path)?.st_mode);
    let cover = if kind == FileType::Directory {
        new_filesystem("tmpfs", Some(Path::new("tmpfs")), &[("ro".to_owned(), None)], libc::MOUNT_ATTR_RDONLY)
    } else {
        copy_tree(Path::new("/dev/null"), false)
    };
    let cover = cover.on("make cover for", path)?;
    attach(cover.as_fd(), point.as_fd()).on("mask", path)
}
