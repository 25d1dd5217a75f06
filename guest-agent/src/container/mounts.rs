//! The `mounts` list of a spec, carried out in order inside the root.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mount_tree::{MountAttributes, attach, copy_tree, set_mount_attributes};
use oci_spec::runtime::Mount;
use rustix::fs::{FileType, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::copy_up::copy_contents;
use super::error::{SetupError, Step};
use super::options::MountOptions;
use super::proc_mounts;
use super::root::{Root, Shape};

/// What mounting needs to know about the container besides the list.
pub(crate) struct MountContext<'a> {
    pub(crate) root: &'a Root,
    /// The container's cgroup directory.
    pub(crate) cgroup: &'a Path,
    /// Whether the container has its own cgroup namespace.
    pub(crate) cgroup_namespace: bool,
    /// Whether `sysfs` is the guest's: the kernel gives a user namespace a new one only with a network of its own.
    pub(crate) shares_sysfs: bool,
}

/// Refuses options that can't be met.
pub(crate) fn validate(mounts: &[Mount]) -> Result<(), SetupError> {
    for (index, mount) in mounts.iter().enumerate() {
        let options = MountOptions::parse(words(mount));
        let refuse = |what: &str, why: &str| {
            Err(SetupError::spec(format!("mounts[{index}].options"), format_args!("{what:?} {why}")))
        };
        if let Some(word) = &options.maps_ids {
            return refuse(word, "isn't supported; leave it out");
        }
        if options.binds()
            && let Some((word, _)) = options.data.first()
        {
            return refuse(word, "is no option of a bind mount");
        }
        if mount.typ().as_deref() == Some("bind") && !options.binds() {
            return refuse("bind", "or \"rbind\" is missing, which a mount of type \"bind\" needs");
        }
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(SetupError::spec(format!("mounts[{index}].uidMappings"), "isn't supported; leave it out"));
        }
    }
    Ok(())
}

/// Carries out the list; `/dev` and every tmpfs stay writable until [`finish`], because things are still made there.
pub(crate) fn mount_all(context: &MountContext<'_>, mounts: &[Mount]) -> Result<(), SetupError> {
    for (index, mount) in mounts.iter().enumerate() {
        mount_one(context, index, mount)?;
    }
    Ok(())
}

/// Makes read-only what was left writable.
pub(crate) fn finish(root: &Root, mounts: &[Mount]) -> Result<(), SetupError> {
    for mount in mounts.iter().filter(|mount| is_finished_late(mount)) {
        if MountOptions::parse(words(mount)).is_read_only() {
            let top = root.find(mount.destination(), OFlags::PATH).on("open", mount.destination())?;
            let read_only = MountAttributes { set: libc::MOUNT_ATTR_RDONLY, ..Default::default() };
            set_mount_attributes(top.as_fd(), read_only, false).on("make read-only", mount.destination())?;
        }
    }
    Ok(())
}

/// Whether the list puts something of the guest's on `/dev`: then the container gets no devices of its own there.
pub(crate) fn binds_dev(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| is_dev(mount) && MountOptions::parse(words(mount)).binds())
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
    if is_finished_late(mount) {
        options = options.writable();
    }
    let target = mount.destination();
    let source = if options.binds() { Some(bind_source(index, mount, &options)?) } else { None };
    let shape = match &source {
        Some(tree) if !is_directory(tree.as_fd()).on("stat source of", target)? => Shape::File,
        _ => Shape::Directory,
    };
    let point = context.root.mount_point(target, shape).on("make mount point", target)?;
    let place = place(context.root, point.as_fd()).on("find mount point", target)?;
    proc_mounts::check(index, mount, &place, source.as_ref().map(AsFd::as_fd))?;
    let tree = match source {
        Some(tree) => tree,
        None => filesystem(context, mount, &options, point.as_fd()).on("mount", target)?,
    };
    attach(tree.as_fd(), point.as_fd()).on("mount", target)?;
    for (propagation, recursive) in &options.propagations {
        let attributes = MountAttributes { propagation: *propagation, ..Default::default() };
        set_mount_attributes(tree.as_fd(), attributes, *recursive).on("set propagation of", target)?;
    }
    Ok(())
}

/// Where in the root an open file is, links resolved.
fn place(root: &Root, file: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = |file: BorrowedFd<'_>| std::fs::read_link(proc_path(file));
    let (root, path) = (path(root.as_fd())?, path(file)?);
    path.strip_prefix(root).map(|inside| Path::new("/").join(inside)).map_err(io::Error::other)
}

/// A path that leads to an open file, whatever it is called.
fn proc_path(file: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn bind_source(index: usize, mount: &Mount, options: &MountOptions) -> Result<OwnedFd, SetupError> {
    let field = || format!("mounts[{index}].source");
    let target = mount.destination();
    let Some(source) = mount.source() else {
        return Err(SetupError::spec(field(), format_args!("a bind mount on {} needs one", target.display())));
    };
    let tree = copy_tree(source, options.binds_tree())
        .map_err(|error| SetupError::spec(field(), format_args!("{} in the guest: {error}", source.display())))?;
    set_bind_attributes(tree.as_fd(), options).on("set attributes of", target)?;
    if options.recursive_attributes != MountAttributes::default() {
        set_mount_attributes(tree.as_fd(), options.recursive_attributes, true).on("set attributes of", target)?;
    }
    Ok(tree)
}

/// Sets what a bind says of attributes. In a user namespace some of the source's can't be lost: then they stay, unless
/// losing them was asked for.
fn set_bind_attributes(tree: BorrowedFd<'_>, options: &MountOptions) -> io::Result<()> {
    let attributes = options.bind_attributes();
    if attributes == MountAttributes::default() {
        return Ok(());
    }
    let refused = match set_mount_attributes(tree, attributes, false) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => error,
        result => return result,
    };
    let source = rustix::fs::fstatvfs(tree)?.f_flag;
    let locked = [
        (StatVfsMountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (StatVfsMountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (StatVfsMountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (StatVfsMountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ];
    let locked = locked.iter().filter(|(flag, _)| source.contains(*flag));
    let locked = locked.fold(0, |locked, (_, attribute)| locked | attribute);
    if locked & options.lost_attributes() != 0 {
        return Err(refused);
    }
    set_mount_attributes(
        tree,
        MountAttributes { clear: attributes.clear & libc::MOUNT_ATTR__ATIME, ..attributes },
        false,
    )
}

fn filesystem(
    context: &MountContext<'_>,
    mount: &Mount,
    options: &MountOptions,
    point: BorrowedFd<'_>,
) -> io::Result<OwnedFd> {
    let kind = mount.typ().as_deref().unwrap_or("none");
    let source = mount.source().as_deref().unwrap_or(Path::new(""));
    let attributes = (options.attributes() & !options.recursive_attributes.clear) | options.recursive_attributes.set;
    match kind {
        "cgroup" => cgroup(context, source, options, attributes),
        "tmpfs" => {
            // The mode of what is covered is the default one.
            let mode = rustix::fs::fstat(point)?.st_mode & 0o7777;
            let mut data = vec![("mode".to_owned(), Some(format!("{mode:o}")))];
            data.extend(options.filesystem_options());
            let tree = new_filesystem(kind, Some(source), &data, attributes)?;
            if options.copies_up {
                copy_contents(&proc_path(point), &proc_path(tree.as_fd()))?;
            }
            Ok(tree)
        }
        "sysfs" if context.shares_sysfs => {
            // With all that is mounted there, which a user namespace may not take apart.
            let tree = copy_tree(Path::new("/sys"), true)?;
            set_mount_attributes(
                tree.as_fd(),
                MountAttributes { set: attributes, ..MountAttributes::default() },
                true,
            )?;
            Ok(tree)
        }
        _ => new_filesystem(kind, Some(source), &options.filesystem_options(), attributes),
    }
}

/// The hierarchy of cgroups. Where it may not be mounted anew (in a user namespace that has no cgroup namespace of its
/// own), the guest's is bound.
fn cgroup(context: &MountContext<'_>, source: &Path, options: &MountOptions, attributes: u64) -> io::Result<OwnedFd> {
    let refused = match new_filesystem("cgroup2", Some(source), &options.filesystem_options(), attributes) {
        Err(error) if [Some(libc::EPERM), Some(libc::EBUSY)].contains(&error.raw_os_error()) => error,
        result => return result,
    };
    let shown = if context.cgroup_namespace { Some(context.cgroup) } else { context.cgroup.parent() };
    let tree = copy_tree(shown.ok_or(refused)?, false)?;
    set_bind_attributes(tree.as_fd(), options)?;
    Ok(tree)
}

fn is_directory(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == FileType::Directory)
}

fn is_finished_late(mount: &Mount) -> bool {
    is_dev(mount) || mount.typ().as_deref() == Some("tmpfs")
}

fn is_dev(mount: &Mount) -> bool {
    mount.destination().components().eq(Path::new("/dev").components())
}

fn words(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}
