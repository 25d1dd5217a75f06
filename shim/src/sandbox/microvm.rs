//! VMs of crate `supermachine`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent_proto::{AgentClient, RootFilesystem};
use containerd_shim_protos::types::mount::Mount;
use supermachine::daemon::{self, EnsureLayersRequest, RequestBakeRequest};
use supermachine::{Machine, Mode, Vm};
use supermachine_config::Config;
use tokio::sync::RwLock;
use tracing::{info, warn};

use super::{Launch, Launcher, Sandbox, SandboxError};
use crate::bundle::{BundleError, EnsureLayers, RootLayers, locate_layers};
use crate::host_cgroup::{self, HostCgroup};
use crate::io::Stream;

/// Starts VMs as the host's configuration says.
#[derive(Debug)]
pub(crate) struct MicroVms {
    config: Config,
}

impl MicroVms {
    pub(crate) fn new(config: Config) -> Self {
        Self { config }
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
        if let Some(path) = &launch.root.upper {
            clone_upper(&config.paths.upper_template(), path)?;
        }
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
                upper: launch.root.upper,
                upper_directories: launch.root.upper_directories,
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
        Ok(Arc::new(MicroVm::new(vm, cgroup)))
    }
}

fn clone_upper(template: &Path, path: &Path) -> Result<(), SandboxError> {
    if path.exists() {
        return Ok(());
    }
    let cloned = supermachine::clone_upper(template, path);
    cloned.map(drop).map_err(|source| SandboxError::Upper { path: path.to_owned(), source })
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
    rootfs: RootFilesystem,
    exited: supermachine::Exited,
    vm: RwLock<Option<(Vm, Option<MadeCgroup>)>>,
}

impl MicroVm {
    fn new(vm: Vm, cgroup: Option<MadeCgroup>) -> Self {
        Self {
            pid: u32::try_from(vm.pid()).unwrap_or_default(),
            agent: vm.agent().clone(),
            rootfs: vm.rootfs(),
            exited: vm.exited(),
            vm: RwLock::new(Some((vm, cgroup))),
        }
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

    fn rootfs(&self) -> RootFilesystem {
        self.rootfs.clone()
    }

    async fn open_stream(&self) -> Result<Stream, SandboxError> {
        let vm = self.vm.read().await;
        let (vm, _) = vm.as_ref().ok_or(SandboxError::Gone)?;
        let stream = vm.open_stream()?;
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
        if let Some((vm, cgroup)) = self.vm.write().await.take() {
            vm.shutdown().await;
            drop(cgroup);
        }
    }
}
