//! The two disks of a VM: the files that stand behind them, and where on them each lies.

mod device;
mod places;
mod warm;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bake::UnpackError;
use vmm_api::{Disks, Extent, Upper};

use crate::error::ErrorKind;
use crate::launch::Attachments;
use crate::writable::lock_disk;

pub(crate) use device::OpenedDevice;
pub use device::{DeviceError, DeviceNumber, HostDevice, HostDevices};
pub(crate) use places::{MAX_PARTS, Places};
pub(crate) use warm::{WarmDisk, warm_disk};

/// Most layers that can be given to a VM at once: descriptors in a message beside the others.
const MAX_LAYERS: usize = 240;

/// What a container's root file system is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootDisks {
    /// Squashfs or erofs images, lowest layer first.
    pub layers: Vec<PathBuf>,
    /// Ext4 image of the writable layer.
    pub upper: Option<PathBuf>,
    /// Where the writable layer is within that.
    pub upper_directories: UpperDirectories,
}

/// Names of directories at the root of a writable layer's file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpperDirectories {
    /// What is written goes there.
    pub files: String,
    /// For overlayfs.
    pub work: String,
}

/// As the image's own template has them.
impl Default for UpperDirectories {
    fn default() -> Self {
        Self { files: "fs".to_owned(), work: "work".to_owned() }
    }
}

/// A file can't stand behind a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It can't be opened.
    #[error("cannot open the {role} {}", path.display())]
    Open {
        /// What it was to be.
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What a warm bake has of it can't be written.
    #[error("cannot make the writable layer {}; is the disk full?", path.display())]
    Unpack {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// Its size is impossible.
    #[error("the {role} {} has {bytes} bytes; {remedy}", path.display())]
    Size {
        /// What it was to be.
        role: &'static str,
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// Another VM has the writable layer.
    #[error(
        "the writable layer {} is in use by another virtual machine; stop its container, or wait until what reads it \
         has ended",
        path.display()
    )]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// No room for more layers beside those of other containers.
    #[error("the virtual machine that these containers share has no room for {count} more layers; make the pod anew")]
    Full {
        /// How many there are to be.
        count: usize,
    },
    /// Too many layers.
    #[error("the image has {count} layers, at most {MAX_LAYERS} are possible; build it with fewer, or squash it")]
    TooManyLayers {
        /// How many it has.
        count: usize,
    },
}

impl DiskError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Unpack { .. } => ErrorKind::Internal,
            Self::InUse { .. } => ErrorKind::Unavailable,
            Self::Full { .. } => ErrorKind::FailedPrecondition,
            Self::Open { .. } | Self::Size { .. } | Self::TooManyLayers { .. } => ErrorKind::InvalidArgument,
        }
    }
}

/// A file that stands behind a disk, or a part of one, with its length in bytes.
#[derive(Debug)]
struct Backing {
    file: File,
    bytes: u64,
    /// Device and inode: which file it is, as long as somebody has it open.
    id: (u64, u64),
}

/// The files of a root file system, opened, and the writable one locked.
#[derive(Debug)]
pub(crate) struct Opened {
    layers: Vec<Backing>,
    upper: Option<Backing>,
    directories: UpperDirectories,
}

impl Opened {
    pub(crate) fn open(root: &RootDisks) -> Result<Self, DiskError> {
        if root.layers.len() > MAX_LAYERS {
            return Err(DiskError::TooManyLayers { count: root.layers.len() });
        }
        let layer = |path| open("layer", path, OpenOptions::new().read(true), "convert the layer again");
        let upper = root.upper.as_deref().map(open_upper).transpose()?;
        let layers = root.layers.iter().map(|path| layer(path)).collect::<Result<_, _>>()?;
        Ok(Self { layers, upper, directories: root.upper_directories.clone() })
    }

    /// Whether there is no file.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty() && self.upper.is_none()
    }

    /// The writable one.
    pub(crate) fn upper(&self) -> Option<&File> {
        self.upper.as_ref().map(|upper| &upper.file)
    }

    /// Size of the writable one in bytes, if there is one.
    pub(crate) fn upper_bytes(&self) -> Option<u64> {
        self.upper.as_ref().map(|upper| upper.bytes)
    }

    /// Attaches the files to a message, with another instead of the writable one if there is another.
    pub(crate) fn attach<'a>(&'a self, warm: Option<&'a WarmDisk>, attachments: &mut Attachments<'a>) -> Disks {
        let extent = |backing: &'a Backing| Extent { file: attachments.attach(&backing.file), length: backing.bytes };
        let layers = self.layers.iter().map(extent).collect();
        let upper = warm.map(|warm| &warm.backing).or(self.upper.as_ref());
        Disks { layers, upper: upper.map(|upper| Upper { file: attachments.attach(&upper.file), length: upper.bytes }) }
    }
}

fn open_upper(path: &Path) -> Result<Backing, DiskError> {
    let role = "writable layer";
    let upper = open(role, path, OpenOptions::new().read(true).write(true), "remove it to have it made again")?;
    if !upper.bytes.is_multiple_of(512) {
        let remedy = "a disk is a whole number of 512-byte sectors";
        return Err(DiskError::Size { role, path: path.to_owned(), bytes: upper.bytes, remedy });
    }
    // Two VMs that write to one disk would destroy it.
    match lock_disk(&upper.file) {
        Ok(true) => Ok(upper),
        Ok(false) => Err(DiskError::InUse { path: path.to_owned() }),
        Err(source) => Err(DiskError::Open { role, path: path.to_owned(), source }),
    }
}

/// Opens a file that must have contents.
fn open(role: &'static str, path: &Path, options: &OpenOptions, remedy: &'static str) -> Result<Backing, DiskError> {
    let open = || {
        let file = options.open(path)?;
        let metadata = file.metadata()?;
        Ok(Backing { bytes: metadata.len(), id: (metadata.dev(), metadata.ino()), file })
    };
    let backing = open().map_err(|source| DiskError::Open { role, path: path.to_owned(), source })?;
    // A length near the type's end would overflow when layers are laid out one after another.
    if backing.bytes == 0 || backing.bytes > 1 << 50 {
        return Err(DiskError::Size { role, path: path.to_owned(), bytes: backing.bytes, remedy });
    }
    Ok(backing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(layers: &[PathBuf], upper: Option<PathBuf>) -> RootDisks {
        RootDisks { layers: layers.to_vec(), upper, ..RootDisks::default() }
    }

    #[test]
    fn a_disk_is_one_vm_s_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper");
        std::fs::write(&path, [0; 512]).unwrap();
        let root = root(&[], Some(path.clone()));
        let first = Opened::open(&root).unwrap();
        let error = Opened::open(&root).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(matches!(error, DiskError::InUse { .. }));
        drop(first);
        Opened::open(&root).unwrap();
    }

    #[test]
    fn unusable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("layer.squashfs");
        let layer = root(std::slice::from_ref(&missing), None);
        let error = Opened::open(&layer).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open the layer {}", missing.display()));
        std::fs::write(&missing, "").unwrap();
        assert!(matches!(Opened::open(&layer), Err(DiskError::Size { bytes: 0, .. })));
        std::fs::write(&missing, "odd").unwrap();
        let odd = root(&[], Some(missing.clone()));
        assert!(matches!(Opened::open(&odd), Err(DiskError::Size { bytes: 3, .. })));
        let many = root(&vec![missing; MAX_LAYERS + 1], None);
        assert!(matches!(Opened::open(&many), Err(DiskError::TooManyLayers { count: 241 })));
    }
}
