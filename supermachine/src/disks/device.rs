//! Block devices of the host, found by their numbers.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, makedev, seek};
use rustix::io::Errno;

use crate::error::ErrorKind;
use crate::vmm::VmmError;

/// Where the kernel lists block devices by their numbers.
const BY_NUMBER: &str = "/sys/dev/block";
/// Where their nodes are, under the names that the kernel gives them.
const NODES: &str = "/dev";
/// Beyond that, places on a disk couldn't be numbered.
const LONGEST: u64 = 1 << 50;

/// A block device of the host that a container is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where the container has it, for messages.
    pub path: PathBuf,
    /// Its numbers on the host, which say what it is.
    pub number: DeviceNumber,
    /// Whether the container may write to it, if the device lets anybody.
    pub writable: bool,
}

/// Major and minor number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.major, self.minor)
    }
}

/// A container can't have a block device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The host has none with these numbers.
    #[error(
        "device {}: the host has no block device {number}; name one that it has (`lsblk` lists them)",
        path.display()
    )]
    Unknown {
        /// Where the container would have had it.
        path: PathBuf,
        /// Its numbers.
        number: DeviceNumber,
    },
    /// The host's node is another device.
    #[error("device {}: {} isn't the block device {number}; remove that file", path.display(), node.display())]
    Node {
        /// Where the container would have had it.
        path: PathBuf,
        /// The host's node.
        node: PathBuf,
        /// The numbers that it should have.
        number: DeviceNumber,
    },
    /// It can't be opened.
    #[error("device {}: cannot open {}; {}", path.display(), node.display(), remedy(source))]
    Open {
        /// Where the container would have had it.
        path: PathBuf,
        /// The host's node.
        node: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It has no contents, or more than a disk can.
    #[error("device {}: {} has {bytes} bytes; {remedy}", path.display(), node.display())]
    Size {
        /// Where the container would have had it.
        path: PathBuf,
        /// The host's node.
        node: PathBuf,
        /// What it has.
        bytes: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// No room beside what other containers have.
    #[error(
        "device {}: the virtual machine holds {limit} writable layers and block devices already, the most that are \
         possible; end a container of the pod, or give this one fewer devices",
        path.display()
    )]
    Full {
        /// Where the container would have had it.
        path: PathBuf,
        /// How many there are.
        limit: usize,
    },
    /// The VMM.
    #[error("device {}: the virtual machine can't be given it", path.display())]
    Vmm {
        /// Where the container would have had it.
        path: PathBuf,
        /// Why not.
        #[source]
        source: VmmError,
    },
}

impl DeviceError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Node { .. } | Self::Open { .. } | Self::Size { .. } | Self::Full { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Vmm { source, .. } => source.kind(),
        }
    }
}

/// What helps against a device that can't be opened.
fn remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => "something on the host holds it: unmount it there, or stop what uses it",
        Some(Errno::NOMEDIUM | Errno::NXIO | Errno::NODEV) => "insert a medium, or attach what it is to show",
        Some(Errno::NOENT) => "have the host make its node (`udevadm trigger`)",
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => "give it to the container for reading only (`:r`)",
        _ => "see whether the host itself can read it (`dd`), and what its kernel says (`dmesg`)",
    }
}

/// Block devices of the host, opened, whatever happens to their nodes.
#[derive(Debug, Default)]
pub struct HostDevices(pub(crate) Vec<OpenedDevice>);

#[derive(Debug)]
pub(crate) struct OpenedDevice {
    pub(crate) path: PathBuf,
    pub(crate) number: DeviceNumber,
    pub(crate) file: File,
    pub(crate) bytes: u64,
    pub(crate) writable: bool,
}

impl HostDevices {
    /// Opens devices: all of them, or an error names one. Whether somebody else uses them isn't asked, as with any
    /// runtime: that is up to whoever gives them away.
    pub fn open(devices: &[HostDevice]) -> Result<Self, DeviceError> {
        devices.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn open(device: &HostDevice) -> Result<OpenedDevice, DeviceError> {
    let HostDevice { path, number, writable } = device;
    let (path, number) = (path.clone(), *number);
    let Some(found) = Found::by(number) else { return Err(DeviceError::Unknown { path, number }) };
    let (node, writable) = (found.node, *writable && !found.read_only);
    let failed = |source| DeviceError::Open { path: path.clone(), node: node.clone(), source };
    let file = OpenOptions::new().read(true).write(writable).open(&node).map_err(failed)?;
    if !is(&file, number).map_err(failed)? {
        return Err(DeviceError::Node { path, node, number });
    }
    let bytes = seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?;
    let remedy = match bytes {
        0 => "insert a medium, or attach what it is to show (`losetup`, for one)",
        1..=LONGEST => return Ok(OpenedDevice { path, number, file, bytes, writable }),
        _ => "a virtual machine can be given a part of it, as a partition or a volume of its own",
    };
    Err(DeviceError::Size { path, node, bytes, remedy })
}

/// What the kernel says of a block device.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    node: PathBuf,
    read_only: bool,
}

impl Found {
    fn by(number: DeviceNumber) -> Option<Self> {
        let directory = Path::new(BY_NUMBER).join(number.to_string());
        let event = fs::read_to_string(directory.join("uevent")).ok()?;
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        let read_only = fs::read_to_string(directory.join("ro")).is_ok_and(|read_only| read_only.trim() == "1");
        Some(Self { node: Path::new(NODES).join(name), read_only })
    }
}

/// Whether this is the block device with that number.
fn is(file: &File, number: DeviceNumber) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok(metadata.file_type().is_block_device() && metadata.rdev() == makedev(number.major, number.minor))
}

#[cfg(test)]
mod tests {
    use loop_device::LoopDevice;
    use rustix::fs::{major, minor};

    use super::*;

    fn wanted(major: u32, minor: u32) -> HostDevice {
        HostDevice { path: "/dev/xvdc".into(), number: DeviceNumber { major, minor }, writable: false }
    }

    #[test]
    fn numbers_that_the_host_has_not_are_named() {
        let error = HostDevices::open(&[wanted(4095, 1_048_575)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let expected =
            "device /dev/xvdc: the host has no block device 4095:1048575; name one that it has (`lsblk` lists them)";
        assert_eq!(error.to_string(), expected);
        // The numbers of a terminal: what is asked for is a block device.
        assert!(matches!(HostDevices::open(&[wanted(5, 0)]), Err(DeviceError::Unknown { .. })));
    }

    #[test]
    fn a_device_without_a_medium_is_named_with_what_helps() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let Some(device) = LoopDevice::of(empty.path(), &[]) else { return eprintln!("no loop device can be had") };
        let number = fs::metadata(device.path()).unwrap().rdev();
        let error = HostDevices::open(&[wanted(major(number), minor(number))]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(matches!(error, DeviceError::Size { bytes: 0, .. }), "{error}");
        assert!(error.to_string().starts_with("device /dev/xvdc: "), "{error}");
    }

    #[test]
    fn what_the_host_may_not_write_the_container_may_not_either() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        for (options, writable) in [(&[][..], true), (&["--read-only"][..], false)] {
            let Some(device) = LoopDevice::of(file.path(), options) else {
                return eprintln!("no loop device can be had");
            };
            let number = fs::metadata(device.path()).unwrap().rdev();
            let wanted = HostDevice { writable: true, ..wanted(major(number), minor(number)) };
            let opened = HostDevices::open(std::slice::from_ref(&wanted)).unwrap();
            let [opened] = opened.0.as_slice() else { panic!("one was asked for") };
            assert_eq!((opened.number, opened.bytes, opened.writable), (wanted.number, 1 << 20, writable));
            let opened = HostDevices::open(&[HostDevice { writable: false, ..wanted }]).unwrap();
            assert!(!opened.0[0].writable && opened.0[0].file.set_len(0).is_err());
        }
    }

    #[test]
    fn what_helps_depends_on_what_is_wrong() {
        let open =
            |errno: Errno| DeviceError::Open { path: "/x".into(), node: "/dev/sr0".into(), source: errno.into() };
        for (errno, part) in [
            (Errno::BUSY, "unmount it there"),
            (Errno::NOMEDIUM, "insert a medium"),
            (Errno::ROFS, "for reading only"),
            (Errno::IO, "dmesg"),
        ] {
            let text = open(errno).to_string();
            assert!(text.starts_with("device /x: cannot open /dev/sr0; ") && text.contains(part), "{text}");
        }
    }
}
