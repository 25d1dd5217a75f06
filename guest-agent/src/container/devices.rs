//! What lives in a container's `/dev`.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mount_tree::{attach, copy_tree};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid, chmodat, chownat, makedev, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::error::{SetupError, Step};
use super::root::{Root, Shape, split};

/// Character devices every container has (OCI runtime spec, config-linux, "Default Devices"): path, major and minor
/// number.
pub(crate) const DEFAULT_DEVICES: &[(&str, u32, u32)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Links every container has.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// The terminal multiplexer, whoever made what is there: it must be the one of the container's own devpts.
const MULTIPLEXER: (&str, &str) = ("pts/ptmx", "/dev/ptmx");

/// Made where the kernel has the file that it leads to.
const CORE: (&str, &str) = ("/proc/kcore", "/dev/core");

struct Node {
    path: PathBuf,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: (u32, u32),
}

/// Makes the default devices, those of the spec, and the links. Inside a user namespace, where device nodes can't be
/// made, the guest's own are bound instead.
pub(crate) fn populate(root: &Root, devices: &[LinuxDevice], in_user_namespace: bool) -> Result<(), SetupError> {
    let defaults = DEFAULT_DEVICES.iter().map(|(path, major, minor)| Node {
        path: PathBuf::from(path),
        kind: FileType::CharacterDevice,
        major: *major,
        minor: *minor,
        mode: 0o666,
        owner: (0, 0),
    });
    let wanted: Vec<Node> =
        devices.iter().enumerate().map(|(index, device)| from_spec(index, device)).collect::<Result<_, _>>()?;
    let defaults = defaults.filter(|node| !wanted.iter().any(|other| other.path == node.path)).collect::<Vec<_>>();
    // A path is needed by nodes alone: an entry without one is about access.
    let named = wanted.iter().filter(|node| !node.path.as_os_str().is_empty() && node.path != Path::new(MULTIPLEXER.1));
    for node in defaults.iter().chain(named) {
        if in_user_namespace { bind(root, node)? } else { make(root, node)? }
    }
    for link in LINKS {
        make_link(root, *link)?;
    }
    if Path::new(CORE.0).exists() {
        make_link(root, CORE)?;
    }
    remove(root, Path::new(MULTIPLEXER.1))?;
    make_link(root, MULTIPLEXER)
}

fn make_link(root: &Root, (target, path): (&str, &str)) -> Result<(), SetupError> {
    let path = Path::new(path);
    let (parent, name) = split(path).on("make link", path)?;
    let parent = root.make_directories(&parent).on("make directory for", path)?;
    match symlinkat(target, &parent, &name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).on("make link", path),
    }
}

fn remove(root: &Root, path: &Path) -> Result<(), SetupError> {
    let (parent, name) = split(path).on("remove", path)?;
    let parent = root.make_directories(&parent).on("make directory for", path)?;
    match unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).on("remove", path),
    }
}

fn from_spec(index: usize, device: &LinuxDevice) -> Result<Node, SetupError> {
    let field = |name: &str| format!("linux.devices[{index}].{name}");
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(SetupError::spec(field("type"), "\"a\" is no kind of device")),
    };
    let number = |name: &str, value: i64| match u32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) if kind == FileType::Fifo => Ok(0),
        Err(_) => Err(SetupError::spec(field(name), format_args!("{value} is out of range"))),
    };
    Ok(Node {
        path: device.path().clone(),
        kind,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
    })
}

fn make(root: &Root, node: &Node) -> Result<(), SetupError> {
    let (parent, name) = split(&node.path).on("make device", &node.path)?;
    let parent = root.make_directories(&parent).on("make directory for", &node.path)?;
    let mode = Mode::from_raw_mode(node.mode);
    match mknodat(&parent, &name, node.kind, mode, makedev(node.major, node.minor)) {
        // The image's own node, or one bound there by a mount: it stays.
        Err(Errno::EXIST) => return Ok(()),
        // The container may not make this device, which doesn't mean that it may not use it.
        Err(Errno::PERM | Errno::ACCESS) => return bind(root, node),
        result => result.on("make device", &node.path)?,
    }
    chmodat(&parent, &name, mode, AtFlags::empty()).on("set mode of", &node.path)?;
    let (uid, gid) = (Uid::from_raw(node.owner.0), Gid::from_raw(node.owner.1));
    chownat(&parent, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).on("set owner of", &node.path)
}

fn bind(root: &Root, node: &Node) -> Result<(), SetupError> {
    let source = of_guest(node);
    let tree = copy_tree(&source, false).on("open device", &source)?;
    let point = root.mount_point(&node.path, Shape::File).on("make mount point", &node.path)?;
    attach(tree.as_fd(), point.as_fd()).on("bind device", &node.path)
}

/// Where the guest itself has a device: block devices under the kernel's names, others where everybody has them.
fn of_guest(node: &Node) -> PathBuf {
    let by_number = format!("/sys/dev/block/{}:{}", node.major, node.minor);
    let known = std::fs::read_link(by_number).ok().filter(|_| node.kind == FileType::BlockDevice);
    let name = known.as_deref().and_then(Path::file_name);
    name.map_or_else(|| node.path.clone(), |name| Path::new("/dev").join(name))
}
