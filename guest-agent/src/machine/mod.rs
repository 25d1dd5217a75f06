//! The virtual machine as the agent's guest: its clock, its randomness, its disks, its network.

mod disk;
mod layers;
mod network;
mod rootfs;
mod upper;
mod uppers;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_proto::{ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, ResumeRequest, RootFilesystem};
use async_trait::async_trait;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::ClockId;
use rustix::time::{Timespec, clock_settime};

use crate::guest::Guest;
use crate::refusal::{Kind, Refusal};
use crate::sys::{SEED_BYTES, credit_entropy};
use layers::Layers;
pub(crate) use network::{Network, set_apart};
use uppers::Uppers;

/// The machine the agent is process 1 of.
#[derive(Debug)]
pub(crate) struct VirtualMachine {
    layers: tokio::sync::Mutex<Layers>,
    uppers: Uppers,
    network: Network,
}

impl VirtualMachine {
    /// A machine with this network.
    pub(crate) fn new(network: Network) -> Self {
        Self { layers: tokio::sync::Mutex::default(), uppers: Uppers::default(), network }
    }
}

#[async_trait]
impl Guest for VirtualMachine {
    fn resume(&self, request: &ResumeRequest) -> Result<(), Refusal> {
        let Ok(seed) = <&[u8; SEED_BYTES]>::try_from(request.entropy.as_slice()) else {
            let message = format!("entropy must be exactly {SEED_BYTES} bytes, not {}", request.entropy.len());
            return Err(Refusal::new(Kind::InvalidArgument, message));
        };
        let failed =
            |what: &'static str| move |error: std::io::Error| Refusal::new(Kind::Internal, format!("{what}: {error}"));
        let random = rustix::fs::openat(CWD, "/dev/urandom", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let random = random.map_err(|error| failed("open /dev/urandom")(error.into()))?;
        credit_entropy(std::os::fd::AsFd::as_fd(&random), seed).map_err(failed("credit entropy"))?;
        let now = wall_clock(request.realtime_ns);
        clock_settime(ClockId::Realtime, now).map_err(|error| failed("set the clock")(error.into()))?;
        if !request.hostname.is_empty() {
            let set = rustix::system::sethostname(request.hostname.as_bytes());
            set.map_err(|error| failed("set the host name")(error.into()))?;
        }
        Ok(())
    }

    /// Nothing is emptied: a kernel whose caches are warm allocates from pages that the bake holds, and what it
    /// frees later it would free after every restore.
    fn prepare_capture(&self) -> Result<(), Refusal> {
        rustix::fs::sync();
        Ok(())
    }

    async fn configure_network(&self, request: &ConfigureNetworkRequest) -> Result<(), Refusal> {
        Ok(self.network.configure(request).await?)
    }

    fn network(&self) -> Option<PathBuf> {
        self.network.namespace()
    }

    async fn assemble(
        &self,
        container: &str,
        rootfs: &RootFilesystem,
        content: Option<OwnedFd>,
    ) -> Result<PathBuf, Refusal> {
        Ok(rootfs::assemble(&self.layers, &self.uppers, container, rootfs, content).await?)
    }

    fn dismantle(&self, container: &str) -> Result<(), Refusal> {
        Ok(rootfs::dismantle(&self.uppers, container)?)
    }

    async fn export(&self, request: &ExportUpperRequest, archive: OwnedFd) -> Result<ExportUpperResponse, Refusal> {
        Ok(upper::export(&self.uppers, request, archive).await?)
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
