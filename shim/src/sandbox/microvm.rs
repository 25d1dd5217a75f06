//! VMs of crate `supermachine`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_proto::{AgentClient, RootFilesystem};
use containerd_shim_protos::types::mount::Mount;
use supermachine::daemon::{self, EnsureLayersRequest, RequestBakeRequest};
use supermachine::{AskedAt, Exported, Machine, Mode, Vm, VmNote};
use supermachine_config::Config;
use tokio::sync::{Mutex, RwLock};
use tracing::{info, warn};

use super::disk::{Disk, TakenDisk};
use super::{Export, Launch, Launcher, Sandbox, SandboxError};
use crate::bundle::{BundleError, EnsureLayers, RootLayers, locate_layers};
use crate::host_cgroup::{self, HostCgroup};
use crate::io::Stream;

/// Starts VMs as the host's configuration says.
#[derive(Debug)]
pub(crate) struct MicroVms {
    config: Config,
    address: String,
}

impl MicroVms {
    /// `address` is where this shim can be asked for them.
    pub(crate) fn new(config: Config, address: &str) -> Self {
        Self { config, address: address.to_owned() }
    }
}

#[async_trait::async_trait]
impl Launcher for MicroVms {
    async fn locate(&self, mounts: &[Mount]) -> Result<RootLayers, BundleError> {
        let daemon = LayerDaemon { socket: self.config.paths.daemon_socket.clone() };
        locate_layers(&self.config.paths.snapshotter, mounts, &daemon).await
    }

    async fn launch(&self, launch: Launch) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let annotations = launch.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let config = self.config.clone().with_annotations(annotations)?;
        let machine = Machine::load(&config)?;
        let disk = Disk::prepare(launch.root.writable, &config.paths.upper_template())?;
        let asked = AskedAt { address: self.address.clone(), container: launch.id.clone() };
        let cgroup = launch.cgroup.map(MadeCgroup::make).transpose()?;
        if let Some(MadeCgroup(cgroup)) = &cgroup {
            let bounded = cgroup.bound_memory(machine.shape().memory_bytes);
            bounded.map_err(|source| SandboxError::Cgroup { path: cgroup.path().to_owned(), source })?;
        }
        drop(host_cgroup::limit(cgroup.as_ref().map(|cgroup| &cgroup.0), &launch.resources)?);
        let vm = Vm::start(
            &machine,
            supermachine::Launch {
                state_dir: config.paths.sandbox(&launch.namespace, &launch.id),
                // A container without a host name of its own shows its host's, as under runc.
                hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                layers: launch.root.layers,
                upper: disk.file.clone(),
                upper_directories: disk.directories.clone(),
                network: launch.network,
                cgroup: cgroup.as_ref().map(|cgroup| cgroup.0.path().to_owned()),
                id: launch.id,
            },
        )
        .await?;
        let started = vm.started();
        info!(mode = ?started.mode, reason = %started.reason, "VM started");
        if matches!(started.mode, Mode::Cold) && config.bake.enabled {
            let shape = machine.shape();
            let request = RequestBakeRequest {
                memory_bytes: shape.memory_bytes,
                vcpus: shape.vcpus.into(),
                ..Default::default()
            };
            tokio::spawn(request_bake(config.paths.daemon_socket.clone(), request));
        }
        let (disk, note) = disk.taken(&asked)?;
        Ok(Arc::new(MicroVm::new(Parts { note, vm, cgroup }, disk)))
    }
}

/// Asks the daemon for a bake, so that the next start of this shape restores. Failing that, the next is cold as well.
async fn request_bake(socket: PathBuf, request: RequestBakeRequest) {
    let client = match daemon::connect(&socket).await {
        Ok(client) => client,
        Err(error) => return warn!("no bake was asked for: {}", supermachine::chain(&error)),
    };
    match client.request_bake(ttrpc::context::with_duration(std::time::Duration::from_secs(5)), &request).await {
        Ok(response) => info!(state = ?response.state, "asked for a bake"),
        Err(error) => warn!("no bake was asked for: {error}"),
    }
}

/// The snapshotter's daemon, asked for layers that aren't converted yet.
struct LayerDaemon {
    socket: PathBuf,
}

#[async_trait::async_trait]
impl EnsureLayers for LayerDaemon {
    async fn ensure(&self, directories: &[PathBuf]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error + Send + Sync>> {
        let client = daemon::connect(&self.socket).await?;
        let request = EnsureLayersRequest {
            lower_directories: directories.iter().map(|path| path.display().to_string()).collect(),
            ..Default::default()
        };
        // Converting a large layer takes as long as it takes; containerd's own time limit applies.
        let response = client.ensure_layers(ttrpc::context::Context::default(), &request).await?;
        if response.layers.len() != directories.len() {
            return Err(format!("the daemon answered with {} layers", response.layers.len()).into());
        }
        Ok(response.layers.into_iter().map(PathBuf::from).collect())
    }
}

/// A cgroup that is removed when this is dropped, which must be after its VM's end.
struct MadeCgroup(HostCgroup);

impl MadeCgroup {
    fn make(cgroup: HostCgroup) -> Result<Self, SandboxError> {
        match cgroup.create() {
            Ok(()) => Ok(Self(cgroup)),
            Err(source) => Err(SandboxError::Cgroup { path: cgroup.path().to_owned(), source }),
        }
    }
}

impl Drop for MadeCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove() {
            warn!("the cgroup {} is left behind: {error}", self.0.path().display());
        }
    }
}

/// One VM. Its handle is taken away by the first shutdown.
struct MicroVm {
    pid: u32,
    agent: AgentClient,
    exited: supermachine::Exited,
    /// Begins the names of what is exported, so that those of two VMs differ.
    name: String,
    vm: RwLock<Option<Parts>>,
    disk: Mutex<TakenDisk>,
}

/// What goes with a VM, in this order.
struct Parts {
    /// Nobody is to ask a VM that is about to end; a next one has its own note.
    note: Option<VmNote>,
    vm: Vm,
    cgroup: Option<MadeCgroup>,
}

impl MicroVm {
    fn new(parts: Parts, disk: TakenDisk) -> Self {
        let vm = &parts.vm;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            pid: u32::try_from(vm.pid()).unwrap_or_default(),
            agent: vm.agent().clone(),
            exited: vm.exited(),
            name: format!("{}-{}-", vm.pid(), since_1970.as_nanos()),
            vm: RwLock::new(Some(parts)),
            disk: Mutex::new(disk),
        }
    }

    /// Does something with the VM, unless it is gone.
    async fn with<T, E>(&self, action: impl FnOnce(&Vm) -> Result<T, E>) -> Result<T, SandboxError>
    where
        SandboxError: From<E>,
    {
        let parts = self.vm.read().await;
        Ok(action(&parts.as_ref().ok_or(SandboxError::Gone)?.vm)?)
    }
}

#[async_trait::async_trait]
impl Sandbox for MicroVm {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn agent(&self) -> &AgentClient {
        &self.agent
    }

    async fn connect_network(&self) -> Result<(), SandboxError> {
        let parts = self.vm.read().await;
        Ok(parts.as_ref().ok_or(SandboxError::Gone)?.vm.connect_network().await?)
    }

    async fn rootfs(&self) -> Result<RootFilesystem, SandboxError> {
        let mut disk = self.disk.lock().await;
        self.with(|vm| {
            let upper_content = disk.begin_import(vm)?;
            Ok::<_, SandboxError>(RootFilesystem { upper_content, ..vm.rootfs() })
        })
        .await
    }

    async fn settle(&self) -> Result<(), SandboxError> {
        self.disk.lock().await.settle().await
    }

    async fn export(&self, directory: &Path, known: &str) -> Result<Export, SandboxError> {
        let known = known.strip_prefix(&self.name).and_then(|number| number.parse().ok()).unwrap_or_default();
        // Not while it is copied: the VM may end meanwhile.
        let exporter = self.with(|vm| vm.exporter(known)).await?;
        let (number, is_written) = match exporter.into_directory(directory).await? {
            Exported::Written { generation } => (generation, true),
            Exported::AsKnown => (known, false),
            // The container that has the disk uses it.
            Exported::Unused => return Err(SandboxError::Gone),
        };
        Ok(Export { generation: format!("{}{number}", self.name), is_written })
    }

    async fn open_stream(&self) -> Result<Stream, SandboxError> {
        let stream = self.with(Vm::open_stream).await?;
        Ok(Stream { token: stream.token, socket: stream.socket })
    }

    async fn exited(&self) -> String {
        let exit = self.exited.wait().await;
        match exit.console.as_slice() {
            [] => exit.reason.to_string(),
            lines => format!("{}; the guest's last console lines:\n{}", exit.reason, lines.join("\n")),
        }
    }

    async fn shutdown(&self) {
        if let Some(Parts { note, vm, cgroup }) = self.vm.write().await.take() {
            drop(note);
            vm.shutdown().await;
            drop(cgroup);
        }
    }
}
