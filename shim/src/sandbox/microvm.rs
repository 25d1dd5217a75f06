//! VMs of crate `supermachine`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use agent_proto::{AgentClient, RootFilesystem};
use containerd_shim_protos::types::mount::Mount;
use supermachine::daemon::{self, EnsureLayersRequest, RequestBakeRequest};
use supermachine::{AskedAt, Exported, Machine, Mode, Vm, VmNote};
use supermachine_config::Config;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::disk::{Disk, TakenDisk};
use super::shared::{MadeCgroup, Member, SharedVm};
use super::{Export, Launch, Launcher, Sandbox, SandboxError, group_of};
use crate::bundle::{BundleError, EnsureLayers, RootLayers, locate_layers};
use crate::host_cgroup;
use crate::io::Stream;
use crate::remains::Remains;

/// Starts VMs as the host's configuration says.
pub(crate) struct MicroVms {
    config: Config,
    address: String,
    /// The VM of the one group that a shim serves, if it serves one.
    group: Mutex<Weak<SharedVm>>,
}

impl MicroVms {
    /// `address` is where this shim can be asked for them.
    pub(crate) fn new(config: Config, address: &str) -> Self {
        Self { config, address: address.to_owned(), group: Mutex::default() }
    }
}

#[async_trait::async_trait]
impl Launcher for MicroVms {
    async fn locate(&self, mounts: &[Mount]) -> Result<RootLayers, BundleError> {
        let daemon = LayerDaemon { socket: self.config.paths.daemon_socket.clone() };
        locate_layers(&self.config.paths.snapshotter, mounts, &daemon).await
    }

    async fn launch(&self, launch: Launch) -> Result<Arc<dyn Sandbox>, SandboxError> {
        let annotation = |name: &str| launch.annotations.iter().find(|(key, _)| key == name);
        if group_of(|name| annotation(name).map(|(_, value)| value.as_str())).is_none() {
            return Ok(Arc::new(self.start(launch).await?));
        }
        // A shim serves one group, whose containers are let in one after the other.
        let mut group = self.group.lock().await;
        if let Some(vm) = group.upgrade()
            && let Some(joined) = self.join(vm, &launch).await?
        {
            return Ok(Arc::new(joined));
        }
        let first = self.start(launch).await?;
        *group = Arc::downgrade(&first.share.vm);
        Ok(Arc::new(first))
    }
}

impl MicroVms {
    /// Starts a VM with a container in it.
    async fn start(&self, launch: Launch) -> Result<MicroVm, SandboxError> {
        let annotations = launch.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let config = self.config.clone().with_annotations(annotations)?;
        let machine = Machine::load(&config)?;
        let disk = Disk::prepare(launch.root.writable, &config.paths.upper_template())?;
        let cgroup = launch.cgroup.map(MadeCgroup::make).transpose()?;
        if let Some(MadeCgroup(cgroup)) = &cgroup {
            let bounded = cgroup.bound_memory(machine.shape().memory_bytes);
            bounded.map_err(|source| SandboxError::Cgroup { path: cgroup.path().to_owned(), source })?;
        }
        drop(host_cgroup::limit(cgroup.as_ref().map(|cgroup| &cgroup.0), &launch.resources)?);
        let remains = Remains {
            state: config.paths.sandbox(&launch.namespace, &launch.id),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.0.path().to_owned()),
        };
        let vm = Vm::start(
            &machine,
            supermachine::Launch {
                state_dir: remains.state.clone(),
                // A container without a host name of its own shows its host's, as under runc.
                hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                root: disk.root(launch.root.layers),
                network: launch.network,
                cgroup: remains.cgroup.clone(),
                id: launch.id.clone(),
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
        let (disk, note) = disk.taken(&self.asked_at(&launch.id))?;
        let rootfs = vm.rootfs();
        let (vm, member) = SharedVm::new(vm, cgroup, remains);
        Ok(MicroVm::new(Share { id: launch.id, vm, member, rootfs, is_joined: false }, disk, note))
    }

    /// Puts a container into the VM of its group, whose cgroup and network are those of its first container. None if
    /// the VM has ended meanwhile.
    async fn join(&self, vm: Arc<SharedVm>, launch: &Launch) -> Result<Option<MicroVm>, SandboxError> {
        let disk = Disk::prepare(launch.root.writable.clone(), &self.config.paths.upper_template())?;
        let Some((member, rootfs)) = vm.enter(&disk.root(launch.root.layers.clone())).await? else { return Ok(None) };
        info!(vmm = vm.pid, "joined the VM of the group");
        let share = Share { id: launch.id.clone(), vm, member, rootfs, is_joined: true };
        match disk.taken(&self.asked_at(&launch.id)) {
            Ok((disk, note)) => Ok(Some(MicroVm::new(share, disk, note))),
            Err(error) => {
                share.leave().await;
                Err(error)
            }
        }
    }

    fn asked_at(&self, container: &str) -> AskedAt {
        AskedAt { address: self.address.clone(), container: container.to_owned() }
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

/// A container's membership in a VM.
struct Share {
    id: String,
    vm: Arc<SharedVm>,
    member: Member,
    rootfs: RootFilesystem,
    /// Whether it came to a VM that ran.
    is_joined: bool,
}

impl Share {
    async fn leave(&self) {
        self.vm.leave(self.member, &self.id, &self.rootfs).await;
    }
}

/// A container's share in a VM, and its disk.
struct MicroVm {
    share: Share,
    disk: Mutex<TakenDisk>,
    note: std::sync::Mutex<Option<VmNote>>,
}

impl MicroVm {
    fn new(share: Share, disk: TakenDisk, note: Option<VmNote>) -> Self {
        Self { share, disk: disk.into(), note: note.into() }
    }
}

#[async_trait::async_trait]
impl Sandbox for MicroVm {
    fn pid(&self) -> u32 {
        self.share.vm.pid
    }

    fn joined(&self) -> Option<&Remains> {
        self.share.is_joined.then_some(&self.share.vm.remains)
    }

    fn agent(&self) -> &AgentClient {
        &self.share.vm.agent
    }

    async fn connect_network(&self) -> Result<(), SandboxError> {
        self.share.vm.connect_network().await
    }

    async fn rootfs(&self) -> Result<RootFilesystem, SandboxError> {
        let mut disk = self.disk.lock().await;
        let upper_content = self.share.vm.with(|vm| disk.begin_import(vm)).await?;
        Ok(RootFilesystem { upper_content, ..self.share.rootfs.clone() })
    }

    async fn settle(&self) -> Result<(), SandboxError> {
        self.disk.lock().await.settle().await
    }

    async fn export(&self, directory: &Path, known: &str) -> Result<Export, SandboxError> {
        let Share { vm, rootfs, .. } = &self.share;
        let known = known.strip_prefix(&vm.name).and_then(|number| number.parse().ok()).unwrap_or_default();
        // Not while it is copied: the VM may end meanwhile.
        let exporter = vm.with(|vm| vm.exporter(rootfs, known)).await?;
        let (number, is_written) = match exporter.into_directory(directory).await? {
            Exported::Written { generation } => (generation, true),
            Exported::AsKnown => (known, false),
            // The container that has the disk uses it.
            Exported::Unused => return Err(SandboxError::Gone),
        };
        Ok(Export { generation: format!("{}{number}", vm.name), is_written })
    }

    async fn open_stream(&self) -> Result<Stream, SandboxError> {
        let stream = self.share.vm.with(Vm::open_stream).await?;
        Ok(Stream { token: stream.token, socket: stream.socket })
    }

    async fn exited(&self) -> String {
        let exit = self.share.vm.exited.wait().await;
        match exit.console.as_slice() {
            [] => exit.reason.to_string(),
            lines => format!("{}; the guest's last console lines:\n{}", exit.reason, lines.join("\n")),
        }
    }

    async fn leave(&self) {
        // Nobody is to ask for a disk that is about to go; the next VM that has it has its own note.
        drop(self.note.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.share.leave().await;
    }

    async fn shutdown(&self) {
        drop(self.note.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.share.vm.end().await;
    }
}
