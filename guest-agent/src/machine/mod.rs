//! The virtual machine as the agent's guest: its clock, its randomness, its disks, its network.

mod devices;
mod disk;
mod free_memory;
mod layers;
mod memory;
mod network;
mod notices;
mod preload;
mod processors;
mod rootfs;
mod upper;
mod uppers;
mod volumes;

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use agent_proto::{
    BlockDevice, Change, ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, PrepareImageRequest,
    ResumeRequest, RootFilesystem,
};
use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_settime};

use crate::container::HostDevice;
use crate::guest::Guest;
use crate::refusal::{Kind, Refusal, failed};
use crate::sys::{SEED_BYTES, credit_entropy};
use layers::Layers;
pub(crate) use network::{Network, set_apart};
use notices::Notices;
use uppers::Uppers;
use volumes::Volumes;

/// The machine the agent is process 1 of.
#[derive(Debug)]
pub(crate) struct VirtualMachine {
    layers: tokio::sync::Mutex<Layers>,
    uppers: Uppers,
    volumes: Volumes,
    notices: Notices,
    network: Network,
}

impl VirtualMachine {
    /// A machine with this network.
    pub(crate) fn new(network: Network) -> Self {
        Self {
            layers: tokio::sync::Mutex::default(),
            uppers: Uppers::default(),
            volumes: Volumes::default(),
            notices: Notices::default(),
            network,
        }
    }
}

#[async_trait]
impl Guest for VirtualMachine {
    fn resume(&self, request: &ResumeRequest) -> Result<(), Refusal> {
        let Ok(seed) = <&[u8; SEED_BYTES]>::try_from(request.entropy.as_slice()) else {
            let message = format!("entropy must be exactly {SEED_BYTES} bytes, not {}", request.entropy.len());
            return Err(Refusal::new(Kind::InvalidArgument, message));
        };
        let random = rustix::fs::openat(CWD, "/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let random = random.map_err(|error| failed("open /dev/urandom")(error.into()))?;
        credit_entropy(random.as_fd(), seed).map_err(failed("credit entropy"))?;
        self.set_clock(request.realtime_ns)?;
        memory::add(request.added_memory_start, request.added_memory_bytes)
            .map_err(|error| Refusal::from_error(Kind::FailedPrecondition, &error))?;
        processors::bring_up(request.vcpus).map_err(failed("bring the processors up"))?;
        if !request.hostname.is_empty() {
            let set = rustix::system::sethostname(request.hostname.as_bytes());
            set.map_err(|error| failed("set the host name")(error.into()))?;
        }
        Ok(())
    }

    fn set_clock(&self, realtime_ns: u64) -> Result<(), Refusal> {
        clock_settime(ClockId::Realtime, wall_clock(realtime_ns)).map_err(|error| failed("set the clock")(error.into()))
    }

    async fn prepare_image(&self, request: &PrepareImageRequest) -> Result<(), Refusal> {
        let root = rootfs::merge(&self.layers, &request.layers).await?;
        preload::preload(root.as_fd(), &request.programs);
        Ok(())
    }

    /// Caches stay: what the kernel would let go of later it would let go of after every restore.
    fn prepare_capture(&self) -> Result<(), Refusal> {
        rustix::fs::sync();
        free_memory::clear().map_err(failed("clear memory that is free"))
    }

    async fn configure_network(&self, request: &ConfigureNetworkRequest) -> Result<(), Refusal> {
        Ok(self.network.configure(request).await?)
    }

    async fn remove_interface(&self, card: u32) -> Result<(), Refusal> {
        Ok(self.network.remove(card).await?)
    }

    fn network(&self) -> Option<PathBuf> {
        self.network.namespace()
    }

    fn promise_network(&self) -> Option<PathBuf> {
        self.network.promise()
    }

    async fn settle_network(&self) -> Result<(), Refusal> {
        Ok(self.network.settle().await?)
    }

    async fn assemble(
        &self,
        container: &str,
        rootfs: &RootFilesystem,
        content: Option<OwnedFd>,
    ) -> Result<PathBuf, Refusal> {
        if !rootfs.volume.is_empty() {
            self.volumes.mount().await?;
            return Ok(rootfs::adopt(container, &rootfs.volume)?);
        }
        Ok(rootfs::assemble(&self.layers, &self.uppers, container, rootfs, content).await?)
    }

    fn dismantle(&self, container: &str) -> Result<(), Refusal> {
        Ok(rootfs::dismantle(&self.uppers, container)?)
    }

    async fn export(&self, request: &ExportUpperRequest, archive: OwnedFd) -> Result<ExportUpperResponse, Refusal> {
        Ok(upper::export(&self.uppers, request, archive).await?)
    }

    async fn mount_volumes(&self) -> Result<(), Refusal> {
        Ok(self.volumes.mount().await?)
    }

    async fn notice(&self, changes: Vec<Change>) -> Result<(), Refusal> {
        let told = self.notices.tell(changes).await;
        told.map_err(|error| Refusal::new(Kind::Internal, format!("tell of changes: {error}")))
    }

    async fn release_volumes(&self, names: &[String]) -> Result<(), Refusal> {
        let released = self.notices.release(names.to_vec()).await;
        released.map_err(|error| Refusal::new(Kind::Internal, format!("close what was told of: {error}")))?;
        Ok(volumes::release(names)?)
    }

    async fn attach_devices(&self, devices: &[BlockDevice]) -> Result<Vec<HostDevice>, Refusal> {
        Ok(devices::attach(&self.uppers, devices).await?)
    }

    async fn release(&self, offset_bytes: u64) -> Result<(), Refusal> {
        Ok(self.uppers.release(offset_bytes).await?)
    }
}

fn wall_clock(nanoseconds: u64) -> Timespec {
    const SECOND: u64 = 1_000_000_000;
    // Both fit: a quotient of 10^9 and a remainder below it.
    Timespec { tv_sec: (nanoseconds / SECOND) as i64, tv_nsec: (nanoseconds % SECOND) as i64 }
}
