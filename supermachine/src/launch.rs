//! What one VM is started with.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use rustix::process::geteuid;
use vmm_api::Fd;

use crate::disks::{self, DiskError, RootDisks};
use crate::error::ErrorKind;
use crate::namespace::Namespace;
use crate::trace::Trace;
use crate::warm::Warmth;

/// What one VM is started with.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// containerd namespace of the container that the VM is for, if there is one.
    pub namespace: String,
    /// Names the VM in logs.
    pub id: String,
    /// Holds the VM's logs; made, and removed with everything in it when the VM is gone.
    pub state_dir: PathBuf,
    /// The root file system of its first container.
    pub root: RootDisks,
    /// Whose network the VMM has.
    pub network: Network,
    /// Directory of the cgroup (version 2) that the VMM is moved to.
    pub cgroup: Option<PathBuf>,
    /// The VM's host name.
    pub hostname: String,
    /// Whether files may be shared with the VM, which takes root's rights.
    pub serves_files: bool,
    /// Whether its first container is to run already when the VM is restored.
    pub warmth: Warmth,
    /// Where the phases of the start are noted.
    pub trace: Trace,
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

/// What a launch names can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The network namespace isn't there.
    #[error("cannot open the network namespace {}", path.display())]
    OpenNamespace {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No network namespace.
    #[error("cannot make a network namespace; a limit may be reached (sysctl user.max_net_namespaces)")]
    Namespace(#[source] io::Error),
}

impl LaunchError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk(error) => error.kind(),
            Self::OpenNamespace { source, .. } if source.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::OpenNamespace { .. } | Self::Namespace(_) => ErrorKind::InvalidArgument,
        }
    }
}

/// The files of a launch, opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) root: disks::Opened,
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
        let root = disks::Opened::open(&launch.root)?;
        let network = match &launch.network {
            Network::New => OpenedNetwork::New,
            Network::Inherited => OpenedNetwork::Inherited,
            Network::Of(path) => OpenedNetwork::Of(
                File::open(path).map_err(|source| LaunchError::OpenNamespace { path: path.clone(), source })?,
            ),
        };
        Ok(Self { root, network })
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
