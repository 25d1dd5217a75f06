//! A running virtual machine.

mod agent;
mod attach;
mod devices;
mod error;
mod network;
mod sockets;
mod start;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent_proto::{AgentClient, BlockDevice, ReleaseVolumesRequest, RootFilesystem};
use bake::{Key, Level};
use serde::{Deserialize, Serialize};
use ttrpc::context::with_duration;
use vmm_api::{Reply, Request};

use crate::disks::{DeviceError, DiskError, HostDevices, Places, RootDisks, WarmDisk};
use crate::launch::{Attachments, Launch};
use crate::machine::Machine;
use crate::network::NetworkError;
use crate::run_directory::RunDirectory;
use crate::sockets::{HostSockets, ServedSockets};
use crate::start_record::Recorder;
use crate::vmm::{Exit, Exited, Process, VmmError};
use crate::volumes::{self, VolumeError, Volumes, Watchable, Watching};
use crate::writable::{Exporter, Import};

pub(crate) use agent::Agent;
pub use agent::realtime_ns;
pub(crate) use agent::resume_request;
pub use attach::{AttachError, DetachError};
pub use error::StartError;
pub(crate) use start::{CONSOLE_LINES, cause, logs, memory_extent, memory_files, open, refusal};
pub use stream::{Stream, StreamError};

/// How long the VMM may take to change a running machine, which waits for nothing.
const VMM_WITHIN: Duration = Duration::from_secs(10);

/// How long the guest may take to let go of volumes.
const VOLUMES_WITHIN: Duration = Duration::from_secs(10);

/// How a VM came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", content = "level", rename_all = "snake_case")]
pub enum Mode {
    /// From a bake of this level.
    Restored(Level),
    /// Booted.
    Cold,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restored(level) => write!(f, "restored({level})"),
            Self::Cold => f.write_str("cold"),
        }
    }
}

/// Microseconds from the moment the VMM was about to be spawned, except where said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// The process was spawned.
    pub spawned_us: u64,
    /// The request was decoded and its files checked; since the VMM process began.
    pub opened_us: u64,
    /// Guest memory was mapped; since the VMM process began.
    pub mapped_us: u64,
    /// Devices and vCPU state were in place; since the VMM process began.
    pub wired_us: u64,
    /// The first vCPU was let go; since the VMM process began.
    pub running_us: u64,
    /// The agent's first answer was here.
    pub answered_us: u64,
}

/// How a start went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// How the VM came to run.
    pub mode: Mode,
    /// Why it is that mode, for people.
    pub reason: String,
    /// The bake, if it was restored.
    pub bake: Option<Key>,
    /// Time it took.
    pub timeline: Timeline,
    /// Version of the agent.
    pub agent_version: String,
    /// Release of the guest's kernel.
    pub kernel_release: String,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Restored(_) => self.mode.fmt(f),
            Mode::Cold => write!(f, "{}: {}", self.mode, self.reason),
        }
    }
}

/// A running virtual machine with its agent. Dropping it ends the VM and removes its directory.
#[derive(Debug)]
pub struct Vm {
    agent: Agent,
    process: Arc<Process>,
    /// Of a warm bake, as long as it hasn't taken the place of the container's.
    warm_disk: Mutex<Option<WarmDisk>>,
    started: Started,
    recorder: Recorder,
    rootfs: RootFilesystem,
    /// Held while they change.
    places: tokio::sync::Mutex<Places>,
    /// Keeps the bake in the store.
    _bake: Option<bake::Pin>,
    /// Last: the directory goes when the process has been told to.
    _directory: RunDirectory,
}

impl Vm {
    /// Restores a VM from its bake, or boots it if there is no usable one, and lets its agent go: when this returns,
    /// entropy, clock and host name are set and containers may be created.
    pub async fn start(machine: &Machine, launch: Launch) -> Result<Self, StartError> {
        start::start(machine, &launch).await
    }

    /// How it was started.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Writes down how it was started, into its directory, for others to read.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Process id of the VMM.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The agent. Clones share the connection.
    pub fn agent(&self) -> &AgentClient {
        &self.agent.client
    }

    /// The root file system that the launch asked for, to be named when a container is created.
    pub fn rootfs(&self) -> RootFilesystem {
        self.rootfs.clone()
    }

    /// Puts the disk of a VM that was restored from a warm bake in the place of the one that the launch named, which it was given
    /// instead; once the container is adopted. Nothing happens if there is none.
    pub fn keep_disk(&self) -> Result<(), DiskError> {
        let disk = self.warm_disk.lock().unwrap_or_else(PoisonError::into_inner).take();
        disk.map_or(Ok(()), WarmDisk::keep)
    }

    /// Opens a stream for a process's standard input, output or error. The token names it in requests to the agent.
    pub fn open_stream(&self) -> Result<Stream, StreamError> {
        stream::open(&self.process)
    }

    /// Gives a running VM the root file system of a further container. Layers that it has already are shared.
    pub async fn attach(&self, root: &RootDisks) -> Result<RootFilesystem, AttachError> {
        attach::attach(self, root).await
    }

    /// Takes the writable disk of a root file system away from the VM, for others to have. Its container is deleted.
    pub async fn detach(&self, rootfs: &RootFilesystem) -> Result<(), DetachError> {
        attach::detach(self, rootfs).await
    }

    /// Gives a running VM block devices of the host, to be named when a container is created: all of them, or none.
    pub async fn attach_devices(&self, devices: HostDevices) -> Result<Vec<BlockDevice>, DeviceError> {
        devices::attach(self, devices).await
    }

    /// Takes block devices away from the VM, once what their container wrote has reached them. It is deleted.
    pub async fn detach_devices(&self, devices: &[BlockDevice]) -> Result<(), DetachError> {
        devices::detach(self, devices).await
    }

    /// Shares volumes with the guest, to be named when a container is created. Only if the launch said that files would be
    /// shared.
    pub async fn share(&self, volumes: Volumes) -> Result<(), VolumeError> {
        volumes::add(self.pid(), volumes).await.map_err(VolumeError::Add)
    }

    /// Has the guest's programs that watch volumes, which are shared, hear of what the host does to them.
    pub fn watch_volumes(&self, volumes: Watchable) -> Watching {
        volumes.watch(self.pid(), self.agent())
    }

    /// Takes volumes away from the guest. Their containers are deleted.
    pub async fn unshare(&self, names: &[String]) -> Result<(), VolumeError> {
        let release = ReleaseVolumesRequest { names: names.to_vec(), ..Default::default() };
        let released = self.agent().release_volumes(with_duration(VOLUMES_WITHIN), &release).await;
        released.map_err(|error| VolumeError::Agent(Box::new(error)))?;
        volumes::remove(self.pid(), names.to_vec()).await.map_err(VolumeError::Remove)
    }

    /// Connects the guest's network cards to the interfaces of the VMM's network namespace and gives the guest their
    /// names, addresses and routes; once, and follows what changes there. With an interface, what is dialled in that
    /// namespace at its own addresses reaches the guest. `host_asks` says whether a name server of the host is in that
    /// namespace too (Docker's), which asks others from there.
    pub async fn connect_network(&self, host_asks: bool) -> Result<(), NetworkError> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).map_err(NetworkError::Namespace)?;
        let connection = crate::network::connect(namespace, network::guest(self), host_asks).await?;
        let exited = self.exited();
        tokio::spawn(async move {
            exited.wait().await;
            drop(connection);
        });
        Ok(())
    }

    /// Has processes of the guest that connect to the likenesses of sockets, whose container was created with them, talk
    /// to the sockets' listeners.
    pub fn serve_sockets(&self, sockets: HostSockets) -> ServedSockets {
        sockets.serve(&sockets::guest(self))
    }

    /// Has the VMM change the running machine.
    async fn ask(&self, request: &Request, attachments: &Attachments<'_>, wanted: &Reply) -> Result<(), VmmError> {
        ask(&self.process, request, attachments, wanted).await
    }

    /// Begins to export a writable layer, unless it is of the `known` generation; 0 for none.
    pub fn exporter(&self, rootfs: &RootFilesystem, known: u64) -> Result<Exporter, StreamError> {
        Ok(Exporter::new(self.agent.client.clone(), self.open_stream()?, rootfs, known))
    }

    /// Begins to send a directory's files, to be named when a container is created whose writable layer, which is
    /// empty, is to hold them.
    pub fn import(&self, directory: &Path) -> Result<Import, StreamError> {
        Ok(Import::begin(self.open_stream()?, directory))
    }

    /// Tells when the VM is gone.
    pub fn exited(&self) -> Exited {
        self.process.exited().clone()
    }

    /// Ends the VM and waits until its process and directory are gone.
    pub async fn shutdown(self) -> Arc<Exit> {
        self.process.stop().await
    }
}

/// Has a VMM change its running machine.
async fn ask(
    process: &Process,
    request: &Request,
    attachments: &Attachments<'_>,
    wanted: &Reply,
) -> Result<(), VmmError> {
    let reply = process.ask(request, attachments, VMM_WITHIN).await?;
    if reply == *wanted { Ok(()) } else { Err(VmmError::Unexpected) }
}
