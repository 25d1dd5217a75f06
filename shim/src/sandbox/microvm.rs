//! VMs of crate `supermachine`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};

use agent_proto::{AgentClient, BlockDevice, Resolver, RootFilesystem, Socket};
use containerd_shim_protos::types::mount::Mount;
use supermachine::{
    AskedAt, Exported, HostDevices, HostSockets, Level, Machine, Mode, Owner, Recorder, ServedSockets, StartRecord, Vm,
    VmNote, VolumeError, Volumes, Watchable, Watching,
};
use supermachine_config::Config;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::disk::{Disk, TakenDisk};
use super::node_daemon::{LayerDaemon, request_bake, show_start};
use super::shared::{Belongings, MadeCgroup, Member, SharedVm};
use super::wanted::{is_automatic, possible, wanted_bake};
use super::{Export, Launch, Launcher, Sandbox, SandboxError, group_of, tree};
use crate::bundle::{BundleError, Root, RootLayers, locate_layers};
use crate::host_cgroup;
use crate::io::Stream;
use crate::remains::Remains;

/// Starts VMs as the host's configuration says.
pub(crate) struct MicroVms {
    config: Config,
    address: String,
    containerd: String,
    /// The VM of the one group that a shim serves, if it serves one.
    group: Mutex<Weak<SharedVm>>,
}

impl MicroVms {
    /// `address` is where this shim can be asked for them, `containerd` the socket for containerd's clients.
    pub(crate) fn new(config: Config, address: &str, containerd: &str) -> Self {
        Self { config, address: address.to_owned(), containerd: containerd.to_owned(), group: Mutex::default() }
    }
}

#[async_trait::async_trait]
impl Launcher for MicroVms {
    async fn locate(&self, mounts: &[Mount]) -> Result<Option<RootLayers>, BundleError> {
        let daemon = LayerDaemon { socket: self.config.paths.daemon_socket.clone() };
        locate_layers(&self.config.paths.snapshotter, mounts, &daemon).await
    }

    async fn show(&self, start: &StartRecord) {
        if !self.containerd.is_empty() {
            show_start(self.config.paths.daemon_socket.clone(), self.containerd.clone(), start).await;
        }
    }

    async fn launch(&self, mut launch: Launch) -> Result<Arc<dyn Sandbox>, SandboxError> {
        // Before there is anything to be undone.
        let sockets = HostSockets::take(&mut launch.volumes)?;
        let mut volumes = Volumes::open(&launch.volumes)?;
        let watchable = volumes.watchable()?;
        let devices = HostDevices::open(&launch.devices)?;
        if let Root::Directory { path, mounts } = &launch.root {
            volumes.append(tree::hold(root_volume(&launch.id), path, mounts).await?);
        }
        let (is_live, trace) = (launch.root.is_live(), launch.trace.clone());
        let mut vm = self.place(launch).await?;
        vm.watchable = watchable.into();
        if let Err(error) = vm.bring(volumes, devices, sockets, is_live).await {
            vm.share.leave().await;
            return Err(error);
        }
        trace.end("volumes and devices shared", Owner::Shim);
        Ok(Arc::new(vm))
    }
}

impl MicroVms {
    /// Finds a VM for a container: a new one, or that of its group.
    async fn place(&self, launch: Launch) -> Result<MicroVm, SandboxError> {
        let annotation = |name: &str| launch.annotations.iter().find(|(key, _)| key == name);
        if group_of(|name| annotation(name).map(|(_, value)| value.as_str())).is_none() {
            return self.start(&launch, false).await;
        }
        // A shim serves one group, whose containers are let in one after the other.
        let mut group = self.group.lock().await;
        if let Some(vm) = group.upgrade()
            && let Some(joined) = self.join(vm, &launch).await?
        {
            return Ok(joined);
        }
        let first = self.start(&launch, true).await?;
        *group = Arc::downgrade(&first.share.vm);
        Ok(first)
    }

    /// Starts a VM with a container in it.
    async fn start(&self, launch: &Launch, is_of_group: bool) -> Result<MicroVm, SandboxError> {
        let annotations = launch.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let host = rustix::system::sysinfo();
        let (host_bytes, host_cpus) = (host.totalram.saturating_mul(host.mem_unit.into()), available_parallelism());
        // Annotations count more than limits.
        let config = launch.need.size(self.config.clone(), host_bytes, host_cpus)?.with_annotations(annotations)?;
        let machine = Machine::load(&config)?;
        let layers = layers(&launch.root);
        let disk = Disk::prepare(layers.writable, &config.paths.upper_template())?;
        let cgroup = launch.cgroup.clone().map(MadeCgroup::make).transpose()?;
        if let Some(MadeCgroup(cgroup)) = &cgroup {
            let bounded = cgroup.bound_memory(machine.shape().total_bytes());
            bounded.map_err(|source| SandboxError::Cgroup { path: cgroup.path().to_owned(), source })?;
        }
        drop(host_cgroup::limit(cgroup.as_ref().map(|cgroup| &cgroup.0), &launch.resources)?);
        let remains = Remains {
            state: config.paths.sandbox(&launch.namespace, &launch.id),
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.0.path().to_owned()),
        };
        launch.trace.end("host prepared", Owner::Shim);
        let root = disk.root(layers.layers);
        let warmth = possible(&launch.warmth, is_of_group, disk.has_files());
        let vm = Vm::start(
            &machine,
            supermachine::Launch {
                namespace: launch.namespace.clone(),
                state_dir: remains.state.clone(),
                // A container without a host name of its own shows its host's, as under runc.
                hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
                root: root.clone(),
                network: launch.network.clone(),
                cgroup: remains.cgroup.clone(),
                id: launch.id.clone(),
                // Those of a group that come later may have volumes.
                serves_files: is_of_group || !launch.volumes.is_empty() || launch.root.is_directory(),
                warmth: warmth.clone(),
                trace: launch.trace.clone(),
            },
        )
        .await?;
        let started = vm.started();
        info!(mode = ?started.mode, reason = %started.reason, "VM started");
        let is_warm = started.mode == Mode::Restored(Level::Warm);
        if let Some(wanted) = wanted_bake(started.mode, &machine, &root, launch, &warmth) {
            if let Err(error) = vm.recorder().note_wanted(&wanted) {
                warn!(%error, "what bake is missing can't be noted");
            }
            if config.bake.enabled && is_automatic(&launch.annotations) {
                tokio::spawn(request_bake(config.paths.daemon_socket.clone(), wanted));
            }
        }
        let (disk, note) = disk.taken(&self.asked_at(&launch.id))?;
        let rootfs = vm.rootfs();
        let (vm, member) = SharedVm::new(vm, cgroup, remains);
        let share = Share::new(launch, vm, member, rootfs, false);
        Ok(MicroVm { is_warm, ..MicroVm::new(share, disk, note) })
    }

    /// Puts a container into the VM of its group, whose cgroup and network are those of its first container. None if
    /// the VM has ended meanwhile.
    async fn join(&self, vm: Arc<SharedVm>, launch: &Launch) -> Result<Option<MicroVm>, SandboxError> {
        let layers = layers(&launch.root);
        let disk = Disk::prepare(layers.writable, &self.config.paths.upper_template())?;
        launch.trace.end("host prepared", Owner::Shim);
        let Some((member, rootfs)) = vm.enter(&disk.root(layers.layers)).await? else { return Ok(None) };
        launch.trace.end("disks attached", Owner::Vmm);
        info!(vmm = vm.pid, "joined the VM of the group");
        let share = Share::new(launch, vm, member, rootfs, true);
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

/// Processors of the host that may be used.
fn available_parallelism() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}

/// A container's membership in a VM.
struct Share {
    vm: Arc<SharedVm>,
    member: Member,
    belongings: Belongings,
    recorder: Recorder,
    /// Whether it came to a VM that ran.
    is_joined: bool,
}

impl Share {
    fn new(launch: &Launch, vm: Arc<SharedVm>, member: Member, mut rootfs: RootFilesystem, is_joined: bool) -> Self {
        let mut volumes: Vec<_> = launch.volumes.iter().map(|volume| volume.name.clone()).collect();
        if launch.root.is_directory() {
            rootfs.volume = root_volume(&launch.id);
            volumes.push(rootfs.volume.clone());
        }
        let belongings = Belongings { id: launch.id.clone(), rootfs, volumes, devices: Vec::new() };
        let recorder = match is_joined {
            true => vm.recorder.joined(&launch.id, launch.trace.clone()),
            false => vm.recorder.clone(),
        };
        Self { vm, member, belongings, recorder, is_joined }
    }

    async fn leave(&self) {
        self.vm.leave(self.member, &self.belongings).await;
    }
}

/// Name of the volume that is the root file system of container `id`; no bind mount's is like it.
fn root_volume(id: &str) -> String {
    format!("{id}.root")
}

/// Those that a VM is to have as disks.
fn layers(root: &Root) -> RootLayers {
    match root {
        Root::Disks(layers) => layers.clone(),
        Root::Directory { .. } => RootLayers::default(),
    }
}

/// A container's share in a VM, and its disk.
struct MicroVm {
    share: Share,
    disk: Mutex<TakenDisk>,
    note: std::sync::Mutex<Option<VmNote>>,
    /// Until they are served.
    sockets: std::sync::Mutex<HostSockets>,
    served: std::sync::Mutex<Option<ServedSockets>>,
    /// Until they are watched.
    watchable: std::sync::Mutex<Watchable>,
    watching: std::sync::Mutex<Option<Watching>>,
    /// Which of the sockets lead to a name server.
    resolver: Option<Resolver>,
    /// Whether the container runs in it already.
    is_warm: bool,
}

impl MicroVm {
    fn new(share: Share, disk: TakenDisk, note: Option<VmNote>) -> Self {
        Self {
            share,
            disk: disk.into(),
            note: note.into(),
            sockets: std::sync::Mutex::default(),
            served: std::sync::Mutex::default(),
            watchable: std::sync::Mutex::default(),
            watching: std::sync::Mutex::default(),
            resolver: None,
            is_warm: false,
        }
    }

    /// Brings the container's part of the host: volumes and block devices appear in the VM, sockets are to be served. A
    /// live bundle may have a name server in the VMM's network namespace.
    async fn bring(
        &mut self,
        volumes: Volumes,
        devices: HostDevices,
        mut sockets: HostSockets,
        is_live: bool,
    ) -> Result<(), SandboxError> {
        if is_live {
            let path = PathBuf::from(format!("/proc/{}/ns/net", self.share.vm.pid));
            let namespace = File::open(&path).map_err(|source| VolumeError::Open { path, source })?;
            let name = format!("{}.resolver", self.share.belongings.id);
            self.resolver = Some(sockets.add_resolver(&name, &namespace)?);
        }
        self.sockets = sockets.into();
        if !devices.is_empty() {
            self.share.belongings.devices = self.share.vm.attach_devices(devices).await?;
        }
        if volumes.is_empty() { Ok(()) } else { self.share.vm.share(volumes).await }
    }

    /// Takes back what the host does for the container, which is about to leave.
    fn retract(&self) {
        if self.share.is_joined {
            self.share.recorder.remove();
        }
        // Nobody is to ask for a disk that is about to go; the next VM that has it has its own note.
        drop(self.note.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.watching.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(self.served.lock().unwrap_or_else(PoisonError::into_inner).take());
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

    fn recorder(&self) -> Option<Recorder> {
        Some(self.share.recorder.clone())
    }

    fn is_warm(&self) -> bool {
        self.is_warm
    }

    fn agent(&self) -> &AgentClient {
        &self.share.vm.agent
    }

    async fn connect_network(&self) -> Result<(), SandboxError> {
        self.share.vm.connect_network(self.resolver().is_some()).await
    }

    async fn rootfs(&self) -> Result<RootFilesystem, SandboxError> {
        let mut disk = self.disk.lock().await;
        let upper_content = self.share.vm.with(|vm| disk.begin_import(vm)).await?;
        Ok(RootFilesystem { upper_content, ..self.share.belongings.rootfs.clone() })
    }

    async fn settle(&self) -> Result<(), SandboxError> {
        self.share.vm.with(Vm::keep_disk).await?;
        self.disk.lock().await.settle().await
    }

    fn sockets(&self) -> Vec<Socket> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).likenesses()
    }

    fn resolver(&self) -> Option<Resolver> {
        self.resolver.clone()
    }

    async fn serve_sockets(&self) -> Result<(), SandboxError> {
        let sockets = std::mem::take(&mut *self.sockets.lock().unwrap_or_else(PoisonError::into_inner));
        let served = self.share.vm.with(|vm| Ok::<_, SandboxError>(vm.serve_sockets(sockets))).await?;
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some(served);
        Ok(())
    }

    async fn watch_volumes(&self) {
        let volumes = std::mem::take(&mut *self.watchable.lock().unwrap_or_else(PoisonError::into_inner));
        // If the VM is gone, there is nobody to hear.
        if let Ok(watching) = self.share.vm.with(|vm| Ok::<_, SandboxError>(vm.watch_volumes(volumes))).await {
            *self.watching.lock().unwrap_or_else(PoisonError::into_inner) = Some(watching);
        }
    }

    async fn export(&self, directory: &Path, known: &str) -> Result<Export, SandboxError> {
        let Share { vm, belongings, .. } = &self.share;
        let known = known.strip_prefix(&vm.name).and_then(|number| number.parse().ok()).unwrap_or_default();
        // Not while it is copied: the VM may end meanwhile.
        let exporter = vm.with(|vm| vm.exporter(&belongings.rootfs, known)).await?;
        let (number, is_written) = match exporter.into_directory(directory).await? {
            Exported::Written { generation } => (generation, true),
            Exported::AsKnown => (known, false),
            // The container that has the disk uses it.
            Exported::Unused => return Err(SandboxError::Gone),
        };
        Ok(Export { generation: format!("{}{number}", vm.name), is_written })
    }

    fn devices(&self) -> Vec<BlockDevice> {
        self.share.belongings.devices.clone()
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
        self.retract();
        self.share.leave().await;
    }

    async fn shutdown(&self) {
        self.retract();
        self.share.vm.end().await;
    }
}
