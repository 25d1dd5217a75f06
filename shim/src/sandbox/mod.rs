//! The virtual machine a container runs in, behind the few things a task needs of it.

mod disk;
mod group;
mod microvm;
mod node_daemon;
mod shared;
mod tree;
mod wanted;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_proto::{AgentClient, BlockDevice, Resolver, RootFilesystem, Socket};
use oci_spec::runtime::LinuxResources;
use supermachine::{HostDevice, Network, Recorder, StartRecord, Trace, Volume, Warmth};
use thiserror::Error;

use crate::bundle::{Need, Root, RootLayers};
use crate::host_cgroup::{HostCgroup, HostLimitError};
use crate::io::Stream;
use crate::remains::Remains;

pub(crate) use group::group_of;
pub(crate) use microvm::MicroVms;
pub(crate) use tree::TreeError;

/// A container's share in a running VM with an agent that answers: all of it, unless the container is of a group.
#[async_trait::async_trait]
pub(crate) trait Sandbox: Send + Sync {
    /// The VMM's process id on the host: the pid of every task in it.
    fn pid(&self) -> u32;
    /// If other containers were in the VM before: what the VM leaves on the host.
    fn joined(&self) -> Option<&Remains>;
    /// Writes down how the VM was started for the container, or was joined by it.
    fn recorder(&self) -> Option<Recorder>;
    /// Whether the container runs already, and is to be adopted.
    fn is_warm(&self) -> bool;
    /// The agent. Its calls fail once the VM is gone.
    fn agent(&self) -> &AgentClient;
    /// Gives the guest the network that the VMM's network namespace has; once, and nothing if it has none.
    async fn connect_network(&self) -> Result<(), SandboxError>;
    /// The root file system in the VM, for the container that is about to be made on it: what the host has
    /// written for it is on its way from then on.
    async fn rootfs(&self) -> Result<RootFilesystem, SandboxError>;
    /// Makes sure, once the container is made, that all of that has arrived and stays.
    async fn settle(&self) -> Result<(), SandboxError>;
    /// The likenesses of those of its volumes that are sockets, for the container that is about to be made. None once
    /// they are served.
    fn sockets(&self) -> Vec<Socket>;
    /// Which of them lead to the name server that the host has for the container, if it has one.
    fn resolver(&self) -> Option<Resolver>;
    /// Has who connects to them in the container talk to the sockets' listeners, until the container leaves.
    async fn serve_sockets(&self) -> Result<(), SandboxError>;
    /// Has the container's programs that watch its volumes hear of what the host does to them, until it leaves.
    async fn watch_volumes(&self);
    /// Makes a directory with everything that the container has written, unless it is of the `known` generation.
    async fn export(&self, directory: &Path, known: &str) -> Result<Export, SandboxError>;
    /// The block devices that the VM was given for the container.
    fn devices(&self) -> Vec<BlockDevice>;
    /// Opens a stream into the VM.
    async fn open_stream(&self) -> Result<Stream, SandboxError>;
    /// Waits until the VM is gone and says why, with the guest's last console lines.
    async fn exited(&self) -> String;
    /// Takes the container out of the VM. With the last one the VM ends, and what it leaves on the host is removed.
    /// Returns when that is done; any number of calls.
    async fn leave(&self);
    /// Ends the VM, whoever is in it. Returns when that is done; any number of calls.
    async fn shutdown(&self);
}

/// What came of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Export {
    /// Names what was written until then, for good.
    pub(crate) generation: String,
    /// Whether there is a directory; otherwise all is as known.
    pub(crate) is_written: bool,
}

/// What a VM is to be started with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// containerd namespace of the container.
    pub(crate) namespace: String,
    /// Container id.
    pub(crate) id: String,
    /// Its root file system.
    pub(crate) root: Root,
    /// The program that it runs.
    pub(crate) program: Option<String>,
    /// How much it may use.
    pub(crate) need: Need,
    /// Whose network the VMM has.
    pub(crate) network: Network,
    /// The cgroup that the VMM is put into.
    pub(crate) cgroup: Option<HostCgroup>,
    /// What that cgroup limits.
    pub(crate) resources: LinuxResources,
    /// Files and sockets of the host that the container has; the VM is to share the files when the launch is over.
    pub(crate) volumes: Vec<Volume>,
    /// Block devices of the host that the container has.
    pub(crate) devices: Vec<HostDevice>,
    /// Name and value of the container's annotations, some of which configure the VM.
    pub(crate) annotations: Vec<(String, String)>,
    /// Whether it is to be restored as it runs.
    pub(crate) warmth: Warmth,
    /// Where the phases of the start are noted.
    pub(crate) trace: Trace,
}

/// Starts VMs.
#[async_trait::async_trait]
pub(crate) trait Launcher: Send + Sync {
    /// Finds the disks behind a root file system's mounts. None if there are none.
    async fn locate(
        &self,
        mounts: &[containerd_shim_protos::types::mount::Mount],
    ) -> Result<Option<RootLayers>, crate::bundle::BundleError>;
    /// Returns once the VM's agent answers.
    async fn launch(&self, launch: Launch) -> Result<Arc<dyn Sandbox>, SandboxError>;
    /// Has containerd's clients show how a container was started.
    async fn show(&self, start: &StartRecord);
}

/// Why there is no VM, or no way into it.
#[derive(Debug, Error)]
pub(crate) enum SandboxError {
    /// The configuration, with the container's annotations, is wrong.
    #[error("configure the VM")]
    Config(#[from] supermachine_config::ConfigError),
    /// The host can't run VMs.
    #[error("prepare the VM")]
    Machine(#[from] supermachine::MachineError),
    /// No writable layer.
    #[error("make the writable layer {path}")]
    Upper {
        /// Its file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: supermachine::UpperError,
    },
    /// What was written before.
    #[error("take over what was written before")]
    Writable(#[from] supermachine::WritableError),
    /// Another VM has it.
    #[error("the writable layer in {path} is in use by another VM")]
    InUse {
        /// The snapshot's folder.
        path: PathBuf,
    },
    /// What the host has written for the container isn't in it.
    #[error("bring the host's files into the VM")]
    Import(#[from] supermachine::ImportError),
    /// What the container has written isn't known.
    #[error("export what the container has written")]
    Export(#[from] supermachine::ExportError),
    /// No cgroup.
    #[error("make the VM's cgroup {path}")]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Limits that the host can't set.
    #[error("limit the VM")]
    Limit(#[from] HostLimitError),
    /// The VM did not start.
    #[error("start the VM")]
    Start(#[from] supermachine::StartError),
    /// The VM of the container's group can't take it.
    #[error("join the VM of the container's group")]
    Attach(#[from] supermachine::AttachError),
    /// The host's directory isn't one to run a container in.
    #[error("prepare the root file system")]
    Tree(#[from] TreeError),
    /// The VM doesn't share what the container is to see.
    #[error("share the container's volumes")]
    Volume(#[from] supermachine::VolumeError),
    /// The disk of a warm bake isn't the container's.
    #[error("give the container the disk that it was captured with")]
    Disk(#[from] supermachine::DiskError),
    /// The VM hasn't got a device that the container is to have.
    #[error("give the container its block devices")]
    Device(#[from] supermachine::DeviceError),
    /// The guest has no network.
    #[error("connect the VM to its network")]
    Network(#[from] supermachine::NetworkError),
    /// The VM has no stream.
    #[error("open a stream into the VM")]
    Stream(#[from] supermachine::StreamError),
    /// The VM is gone.
    #[error("the VM is gone")]
    Gone,
}

#[cfg(test)]
pub(crate) mod fake;
