//! What one VM is started with.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use agent_proto::{Layer, RootFilesystem};
use rustix::process::geteuid;
use vmm_api::{Disks, Extent, Fd, Upper};

use crate::namespace::Namespace;
use crate::writable::lock_disk;

/// Layers begin on multiples of this on the layer disk, in bytes.
const LAYER_ALIGNMENT: u64 = 4096;
/// Most layers of one VM: the kernel's partitions per disk, and descriptors in a message beside the others.
const MAX_LAYERS: usize = 240;

/// What one VM is started with.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Names the VM in logs.
    pub id: String,
    /// Holds the VM's logs; made, and removed with everything in it when the VM is gone.
    pub state_dir: PathBuf,
    /// Squashfs or erofs images, lowest layer first.
    pub layers: Vec<PathBuf>,
    /// Ext4 image of the writable layer.
    pub upper: Option<PathBuf>,
    /// Where the writable layer is within that.
    pub upper_directories: UpperDirectories,
    /// Whose network the VMM has.
    pub network: Network,
    /// Directory of the cgroup (version 2) that the VMM is moved to.
    pub cgroup: Option<PathBuf>,
    /// The VM's host name.
    pub hostname: String,
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

/// Whose network a VMM has. The guest has none of it unless it is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// One of its own, in which nothing is configured.
    #[default]
    New,
    /// That of whoever starts the VM.
    Inherited,
    /// That of the network namespace with this path.
    Of(PathBuf),
}

/// A file that a launch names can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
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
    /// No network namespace.
    #[error("cannot make a network namespace; a limit may be reached (sysctl user.max_net_namespaces)")]
    Namespace(#[source] io::Error),
    /// Too many layers.
    #[error("the image has {count} layers, at most {MAX_LAYERS} are possible; build it with fewer, or squash it")]
    TooManyLayers {
        /// How many it has.
        count: usize,
    },
}

/// The files of a launch, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    layers: Vec<(File, u64)>,
    upper: Option<(File, u64)>,
    upper_directories: UpperDirectories,
    network: OpenedNetwork,
}

#[derive(Debug)]
enum OpenedNetwork {
    /// The VMM makes one itself if it may.
    New,
    Inherited,
    Of(File),
}

impl Launch {
    /// Begins to make the network namespace that is asked for, which takes root's rights. Without them the VMM stays in
    /// the network it is started in.
    pub(crate) fn begin_namespace(&self) -> Result<Option<Namespace>, LaunchError> {
        let wanted = self.network == Network::New && geteuid().is_root();
        wanted.then(Namespace::begin).transpose().map_err(LaunchError::Namespace)
    }
}

impl Opened {
    pub(crate) fn open(launch: &Launch) -> Result<Self, LaunchError> {
        if launch.layers.len() > MAX_LAYERS {
            return Err(LaunchError::TooManyLayers { count: launch.layers.len() });
        }
        let layer = |path| file("layer", path, OpenOptions::new().read(true), "convert the layer again");
        let upper = |path| {
            file("writable layer", path, OpenOptions::new().read(true).write(true), "remove it to have it made again")
        };
        let upper = launch.upper.as_ref().map(upper).transpose()?;
        if let (Some((file, bytes)), Some(path)) = (&upper, &launch.upper) {
            if bytes % 512 != 0 {
                let remedy = "a disk is a whole number of 512-byte sectors";
                return Err(LaunchError::Size { role: "writable layer", path: path.clone(), bytes: *bytes, remedy });
            }
            take(file, path)?;
        }
        let network = match &launch.network {
            Network::New => OpenedNetwork::New,
            Network::Inherited => OpenedNetwork::Inherited,
            Network::Of(path) => OpenedNetwork::Of(File::open(path).map_err(|source| LaunchError::Open {
                role: "network namespace",
                path: path.clone(),
                source,
            })?),
        };
        let layers = launch.layers.iter().map(layer).collect::<Result<_, _>>()?;
        Ok(Self { layers, upper, upper_directories: launch.upper_directories.clone(), network })
    }

    /// Has the VMM enter this network namespace.
    pub(crate) fn enter(&mut self, namespace: File) {
        self.network = OpenedNetwork::Of(namespace);
    }

    /// Attaches the network namespace to a message.
    pub(crate) fn network<'a>(&'a self, attachments: &mut Attachments<'a>) -> vmm_api::Network {
        match &self.network {
            OpenedNetwork::New => vmm_api::Network::New,
            OpenedNetwork::Inherited => vmm_api::Network::Inherited,
            OpenedNetwork::Of(namespace) => vmm_api::Network::Of(attachments.attach(namespace)),
        }
    }

    /// Attaches the disks' files to a message.
    pub(crate) fn disks<'a>(&'a self, attachments: &mut Attachments<'a>) -> Disks {
        let extent = |(file, length): &'a (File, u64), attachments: &mut Attachments<'a>| Extent {
            file: attachments.attach(file),
            length: *length,
        };
        let layers = self.layers.iter().map(|layer| extent(layer, attachments)).collect();
        let upper = self.upper.as_ref().map(|(file, length)| Upper { file: attachments.attach(file), length: *length });
        Disks { layers, upper }
    }

    /// The same disks as the agent sees them.
    pub(crate) fn rootfs(&self) -> RootFilesystem {
        let mut offset = 0;
        let layers = self.layers.iter().map(|(_, length)| {
            let padded = length.next_multiple_of(LAYER_ALIGNMENT);
            let layer = Layer { offset_bytes: offset, length_bytes: padded, ..Default::default() };
            offset += padded;
            layer
        });
        RootFilesystem {
            layers: layers.collect(),
            writable: self.upper.is_some(),
            upper_bytes: self.upper.as_ref().map_or(0, |(_, length)| *length),
            upper_directory: self.upper_directories.files.clone(),
            work_directory: self.upper_directories.work.clone(),
            ..Default::default()
        }
    }
}

/// Two VMs that write to one disk would destroy it.
fn take(file: &File, path: &Path) -> Result<(), LaunchError> {
    let locked =
        lock_disk(file).map_err(|source| LaunchError::Open { role: "writable layer", path: path.to_owned(), source });
    if locked? { Ok(()) } else { Err(LaunchError::InUse { path: path.to_owned() }) }
}

/// Opens a file that must have contents.
fn file(
    role: &'static str,
    path: &PathBuf,
    options: &OpenOptions,
    remedy: &'static str,
) -> Result<(File, u64), LaunchError> {
    let open = || {
        let file = options.open(path)?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
    };
    let (file, bytes) = open().map_err(|source| LaunchError::Open { role, path: path.clone(), source })?;
    // A length near the type's end would overflow when layers are laid out one after another.
    if bytes == 0 || bytes > 1 << 50 {
        return Err(LaunchError::Size { role, path: path.clone(), bytes, remedy });
    }
    Ok((file, bytes))
}

/// Descriptors to be sent with a message, in order.
#[derive(Debug, Default)]
pub(crate) struct Attachments<'a>(pub(crate) Vec<BorrowedFd<'a>>);

impl<'a> Attachments<'a> {
    /// Adds one and names its place. The caller keeps their number below [`vmm_api::MAX_FDS`].
    pub(crate) fn attach(&mut self, fd: &'a impl AsFd) -> Fd {
        let place = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        self.0.push(fd.as_fd());
        Fd(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(layers: &[PathBuf], upper: Option<PathBuf>) -> Launch {
        Launch { layers: layers.to_vec(), upper, ..Default::default() }
    }

    #[test]
    fn layers_follow_each_other_on_page_boundaries() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, bytes: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![1; bytes]).unwrap();
            path
        };
        let launch = launch(&[path("a", 4096), path("b", 5000), path("c", 100)], Some(path("upper", 1024)));
        let rootfs = Opened::open(&launch).unwrap().rootfs();
        let layers: Vec<_> = rootfs.layers.iter().map(|layer| (layer.offset_bytes, layer.length_bytes)).collect();
        assert_eq!(layers, [(0, 4096), (4096, 8192), (12288, 4096)]);
        assert!(rootfs.writable);
        assert_eq!(rootfs.upper_bytes, 1024);
    }

    #[test]
    fn a_disk_is_one_launch_s_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("upper");
        std::fs::write(&path, [0; 512]).unwrap();
        let launch = launch(&[], Some(path.clone()));
        let first = Opened::open(&launch).unwrap();
        let error = Opened::open(&launch).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert!(matches!(error, LaunchError::InUse { .. }));
        drop(first);
        Opened::open(&launch).unwrap();
    }

    #[test]
    fn unusable_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("layer.squashfs");
        let error = Opened::open(&launch(std::slice::from_ref(&missing), None)).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open the layer {}", missing.display()));
        std::fs::write(&missing, "").unwrap();
        assert!(matches!(
            Opened::open(&launch(std::slice::from_ref(&missing), None)),
            Err(LaunchError::Size { bytes: 0, .. })
        ));
        std::fs::write(&missing, "odd").unwrap();
        assert!(matches!(Opened::open(&launch(&[], Some(missing.clone()))), Err(LaunchError::Size { bytes: 3, .. })));
        let many = vec![missing; MAX_LAYERS + 1];
        assert!(matches!(Opened::open(&launch(&many, None)), Err(LaunchError::TooManyLayers { count: 241 })));
    }
}
