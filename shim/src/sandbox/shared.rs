//! A VM and who is in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_proto::{AgentClient, BlockDevice, ProcessRequest, RootFilesystem};
use supermachine::{HostDevices, Recorder, RootDisks, Vm, Volumes};
use tokio::sync::{Mutex, RwLock};
use tracing::{debug, warn};
use ttrpc::context::with_duration;

use super::SandboxError;
use crate::host_cgroup::HostCgroup;
use crate::remains::Remains;

/// How long a guest may take to forget a container.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);

/// A cgroup that is removed when this is dropped, which must be after its VM's end.
pub(super) struct MadeCgroup(pub(super) HostCgroup);

impl MadeCgroup {
    pub(super) fn make(cgroup: HostCgroup) -> Result<Self, SandboxError> {
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

/// What goes with a VM, in this order.
struct Parts {
    vm: Vm,
    cgroup: Option<MadeCgroup>,
}

/// Names one container's membership, once and for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Member(u64);

/// What one container has of a VM.
#[derive(Debug, Default)]
pub(super) struct Belongings {
    /// The container's id.
    pub(super) id: String,
    pub(super) rootfs: RootFilesystem,
    /// Names of its volumes, the one that is its root file system among them.
    pub(super) volumes: Vec<String>,
    pub(super) devices: Vec<BlockDevice>,
}

#[derive(Debug, Default)]
struct Members {
    present: HashSet<Member>,
    next: u64,
}

impl Members {
    fn add(&mut self) -> Member {
        self.next += 1;
        self.present.insert(Member(self.next));
        Member(self.next)
    }
}

/// A VM that ends when the last container leaves it.
pub(super) struct SharedVm {
    pub(super) pid: u32,
    pub(super) agent: AgentClient,
    pub(super) exited: supermachine::Exited,
    pub(super) remains: Remains,
    pub(super) recorder: Recorder,
    /// Begins the names of what is exported, so that those of two VMs differ.
    pub(super) name: String,
    /// None once it has ended.
    parts: RwLock<Option<Parts>>,
    members: Mutex<Members>,
}

impl SharedVm {
    /// With its first container in it.
    pub(super) fn new(vm: Vm, cgroup: Option<MadeCgroup>, remains: Remains) -> (Arc<Self>, Member) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut members = Members::default();
        let first = members.add();
        let shared = Self {
            pid: u32::try_from(vm.pid()).unwrap_or_default(),
            agent: vm.agent().clone(),
            exited: vm.exited(),
            recorder: vm.recorder(),
            remains,
            name: format!("{}-{}-", vm.pid(), since_1970.as_nanos()),
            parts: RwLock::new(Some(Parts { vm, cgroup })),
            members: members.into(),
        };
        (Arc::new(shared), first)
    }

    /// Does something with the VM, unless it has ended.
    pub(super) async fn with<T, E>(&self, action: impl FnOnce(&Vm) -> Result<T, E>) -> Result<T, SandboxError>
    where
        SandboxError: From<E>,
    {
        let parts = self.parts.read().await;
        Ok(action(&parts.as_ref().ok_or(SandboxError::Gone)?.vm)?)
    }

    /// Gives the guest the network that the VMM's network namespace has, in which the host may have a name server.
    pub(super) async fn connect_network(&self, has_resolver: bool) -> Result<(), SandboxError> {
        let parts = self.parts.read().await;
        Ok(parts.as_ref().ok_or(SandboxError::Gone)?.vm.connect_network(has_resolver).await?)
    }

    /// Makes volumes appear in the guest.
    pub(super) async fn share(&self, volumes: Volumes) -> Result<(), SandboxError> {
        let parts = self.parts.read().await;
        Ok(parts.as_ref().ok_or(SandboxError::Gone)?.vm.share(volumes).await?)
    }

    /// Gives the VM block devices of the host.
    pub(super) async fn attach_devices(&self, devices: HostDevices) -> Result<Vec<BlockDevice>, SandboxError> {
        let parts = self.parts.read().await;
        Ok(parts.as_ref().ok_or(SandboxError::Gone)?.vm.attach_devices(devices).await?)
    }

    /// Lets a further container in, with its root file system. None if the VM has ended, or is about to.
    pub(super) async fn enter(&self, root: &RootDisks) -> Result<Option<(Member, RootFilesystem)>, SandboxError> {
        let mut members = self.members.lock().await;
        let parts = self.parts.read().await;
        let Some(Parts { vm, .. }) = parts.as_ref().filter(|_| self.exited.now().is_none()) else { return Ok(None) };
        let rootfs = vm.attach(root).await?;
        Ok(Some((members.add(), rootfs)))
    }

    /// Takes a container out, or ends the VM if it is the last. Returns when that is done; any number of calls.
    pub(super) async fn leave(&self, member: Member, belongings: &Belongings) {
        let mut members = self.members.lock().await;
        let is_present = members.present.contains(&member);
        if members.present.iter().all(|present| *present == member) {
            // What the guest's kernel has yet to write to a file system on one would be lost with it.
            if is_present && !belongings.devices.is_empty() {
                self.give_back_devices(belongings).await;
            }
            self.end().await;
        } else if is_present {
            self.give_back_devices(belongings).await;
            self.give_back_files(belongings).await;
        }
        members.present.remove(&member);
    }

    /// Has the guest forget the container and let go of its block devices.
    async fn give_back_devices(&self, Belongings { id, devices, .. }: &Belongings) {
        let parts = self.parts.read().await;
        let Some(Parts { vm, .. }) = parts.as_ref().filter(|_| self.exited.now().is_none()) else { return };
        let call = ProcessRequest { container_id: id.clone(), ..Default::default() };
        // Mostly it has: then this is refused.
        if let Err(error) = vm.agent().delete_process(with_duration(FORGET_TIMEOUT), &call).await {
            debug!("the agent did not forget the container: {error}");
        }
        if let Err(error) = vm.detach_devices(devices).await {
            warn!("the VM keeps a block device of the container until its end: {}", supermachine::chain(&error));
        }
    }

    /// Has the guest let go of the container's disk and volumes, once it has forgotten the container.
    async fn give_back_files(&self, Belongings { rootfs, volumes, .. }: &Belongings) {
        let parts = self.parts.read().await;
        let Some(Parts { vm, .. }) = parts.as_ref() else { return };
        if let Err(error) = vm.detach(rootfs).await {
            warn!("the VM keeps the container's disk until its end: {}", supermachine::chain(&error));
        }
        if !volumes.is_empty()
            && let Err(error) = vm.unshare(volumes).await
        {
            warn!("the VM keeps the container's volumes until its end: {}", supermachine::chain(&error));
        }
    }

    /// Ends the VM under whoever is in it.
    pub(super) async fn end(&self) {
        if let Some(Parts { vm, cgroup }) = self.parts.write().await.take() {
            vm.shutdown().await;
            drop(cgroup);
        }
    }
}
