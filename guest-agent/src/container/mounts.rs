//! The `mounts` list of a spec, carried out in order inside the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::error::{SetupError, Step};
use super::options::MountOptions;
use super::root::{Root, Shape};
use crate::sys::{MountAttributes, set_mount_attributes};

/// What mounting needs to know about the container besides the list.
pub(crate) struct MountContext<'a> {
    pub(crate) root: &'a Root,
    /// The container's cgroup directory, shown where a spec mounts `cgroup` without a cgroup namespace.
    pub(crate) cgroup: &'a Path,
    /// Whether the container has its own cgroup namespace.
    pub(crate) cgroup_namespace: bool,
    /// Whether `sysfs` is the guest's: the kernel gives a user namespace a new one only with a network of its own.
    pub(crate) shares_sysfs: bool,
}

/// Carries out the list; `/dev` stays writable until [`finish`], because devices are still to be made there.
pub(crate) fn mount_all(context: &MountContext<'_>, mounts: &[Mount]) -> Result<(), SetupError> {
    for (index, mount) in mounts.iter().enumerate() {
        mount_one(context, index, mount)?;
    }
    Ok(())
}

/// Makes `/dev` read-only if the list says so.
pub(crate) fn finish(root: &Root, mounts: &[Mount]) -> Result<(), SetupError> {
    for mount in mounts.iter().filter(|mount| is_dev(mount)) {
        let attributes = MountOptions::parse(words(mount)).attributes;
        if attributes.set & libc::MOUNT_ATTR_RDONLY != 0 {
            let top = root.find(mount.destination(), OFlags::PATH).on("open", mount.destination())?;
            let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
            set_mount_attributes(top.as_fd(), read_only, false).on("make read-only", mount.destination())?;
        }
    }
    Ok(())
}

/// Whether the list puts something of the guest's on `/dev`: then the container gets no devices of its own there.
pub(crate) fn binds_dev(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| is_dev(mount) && is_bind(mount, &MountOptions::parse(words(mount))))
}

/// A detached copy of what is mounted at `source` of the current root.
pub(crate) fn copy_tree(source: &Path, recursive: bool) -> std::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(CWD, source, flags)?)
}

/// Attaches a detached mount on top of an open directory or file.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> std::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// A new, detached instance of a file system.
pub(crate) fn new_filesystem(
    kind: &str,
    source: Option<&Path>,
    data: &[(String, Option<String>)],
    attributes: u64,
) -> std::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = source {
        fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for (key, value) in data {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context.as_fd(), key.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or_default());
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn mount_one(context: &MountContext<'_>, index: usize, mount: &Mount) -> Result<(), SetupError> {
    let mut options = MountOptions::parse(words(mount));
    let target = mount.destination();
    if let Some(word) = &options.unsupported {
        return Err(SetupError::spec(format!("mounts[{index}].options"), format_args!("{word} isn't supported")));
    }
    if is_dev(mount) && !is_bind(mount, &options) {
        options.attributes.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let tree = if is_bind(mount, &options) {
        bind_source(index, mount, &options)?
    } else {
        filesystem(context, mount, &options).on("mount", target)?
    };
    let kind = rustix::fs::fstat(&tree).on("stat mount", target)?.st_mode;
    let shape = if FileType::from_raw_mode(kind) == FileType::Directory { Shape::Directory } else { Shape::File };
    let point = context.root.mount_point(target, shape).on("make mount point", target)?;
    attach(tree.as_fd(), point.as_fd()).on("mount", target)?;
    if let Some((propagation, recursive)) = options.propagation {
        let attributes = MountAttributes { propagation, ..Default::default() };
        set_mount_attributes(tree.as_fd(), attributes, recursive).on("set propagation of", target)?;
    }
    Ok(())
}

fn bind_source(index: usize, mount: &Mount, options: &MountOptions) -> Result<OwnedFd, SetupError> {
    let field = || format!("mounts[{index}].source");
    let Some(source) = mount.source() else {
        return Err(SetupError::spec(
            field(),
            format_args!("a bind mount on {} needs one", mount.destination().display()),
        ));
    };
    let tree = copy_tree(source, options.recursive)
        .map_err(|error| SetupError::spec(field(), format_args!("{} in the guest: {error}", source.display())))?;
    for (attributes, recursive) in [(options.attributes, false), (options.recursive_attributes, true)] {
        if attributes != MountAttributes::default() {
            set_mount_attributes(tree.as_fd(), attributes, recursive).on("set attributes of", mount.destination())?;
        }
    }
    Ok(tree)
}

fn filesystem(context: &MountContext<'_>, mount: &Mount, options: &MountOptions) -> std::io::Result<OwnedFd> {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let mut attributes = options.attributes;
    attributes.set |= options.recursive_attributes.set;
    match kind {
        "cgroup" | "cgroup2" if context.cgroup_namespace => new_filesystem("cgroup2", None, &[], attributes.set),
        "cgroup" | "cgroup2" => {
            let tree = copy_tree(context.cgroup, false)?;
            set_mount_attributes(tree.as_fd(), attributes, false)?;
            Ok(tree)
        }
        "sysfs" if context.shares_sysfs => {
            // With all that is mounted there, which a user namespace may not take apart.
            let tree = copy_tree(Path::new("/sys"), true)?;
            set_mount_attributes(tree.as_fd(), attributes, true)?;
            Ok(tree)
        }
        _ => new_filesystem(kind, mount.source().as_deref(), &options.data, attributes.set),
    }
}

fn is_bind(mount: &Mount, options: &MountOptions) -> bool {
    options.bind || mount.typ().as_deref() == Some("bind")
}

fn is_dev(mount: &Mount) -> bool {
    mount.destination().components().eq(PathBuf::from("/dev").components())
}

fn words(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}
