//! The agent on an ordinary machine, with containers on directories: for tests of everything but boot and disks.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use agent_proto::{
    BlockDevice, Change, ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, PrepareImageRequest,
    ResumeRequest, RootFilesystem,
};
use async_trait::async_trait;

use crate::container::HostDevice;
use crate::guest::Guest;
use crate::refusal::{Kind, Refusal};
use crate::server::{self, Places, Sockets};
use crate::zygote;

/// An agent that can't be started for a trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Where a trial happens.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Every container's root file system.
    pub rootfs: &'a Path,
    /// Where cgroups are made: a cgroup v2 directory.
    pub cgroup_root: &'a Path,
    /// Where files that containers bring are kept.
    pub files: &'a Path,
    /// Where the likenesses of the host's sockets are made.
    pub sockets: &'a Path,
}

/// Serves on listening sockets for requests, for streams, for what is dialled and for the host's sockets. Every
/// container's root file system is the same directory; the machine's clock, randomness and name stay as they are. Must be
/// called while the process has a single thread; never returns unless it fails.
pub fn serve_directory(
    [rpc, streams, dials, host_sockets]: [OwnedFd; 4],
    ground: &Ground<'_>,
) -> Result<(), TrialError> {
    let failed = |step| move |source| TrialError::Step { step, source };
    let zygote = zygote::fork(ground.cgroup_root.to_owned()).map_err(failed("fork the zygote"))?;
    let sockets = Sockets { rpc, streams, dials, host_sockets, zygote };
    let guest = DirectoryGuest { rootfs: ground.rootfs.to_owned() };
    let places = Places {
        cgroups: ground.cgroup_root.to_owned(),
        files: ground.files.to_owned(),
        sockets: ground.sockets.to_owned(),
    };
    server::serve(sockets, guest, places).map_err(failed("serve"))
}

struct DirectoryGuest {
    rootfs: PathBuf,
}

#[async_trait]
impl Guest for DirectoryGuest {
    fn resume(&self, _request: &ResumeRequest) -> Result<(), Refusal> {
        Ok(())
    }

    /// The clock is the host's.
    fn set_clock(&self, _realtime_ns: u64) -> Result<(), Refusal> {
        Ok(())
    }

    async fn prepare_image(&self, _request: &PrepareImageRequest) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no layers"))
    }

    fn prepare_capture(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn configure_network(&self, _request: &ConfigureNetworkRequest) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no network card"))
    }

    async fn remove_interface(&self, _card: u32) -> Result<(), Refusal> {
        Ok(())
    }

    fn network(&self) -> Option<PathBuf> {
        None
    }

    fn promise_network(&self) -> Option<PathBuf> {
        None
    }

    async fn settle_network(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn assemble(
        &self,
        _container: &str,
        _rootfs: &RootFilesystem,
        _content: Option<OwnedFd>,
    ) -> Result<PathBuf, Refusal> {
        Ok(self.rootfs.clone())
    }

    async fn mount_volumes(&self) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no files of a host"))
    }

    async fn notice(&self, _changes: Vec<Change>) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no files of a host"))
    }

    async fn release_volumes(&self, _names: &[String]) -> Result<(), Refusal> {
        Ok(())
    }

    async fn export(&self, _request: &ExportUpperRequest, _archive: OwnedFd) -> Result<ExportUpperResponse, Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no upper disk"))
    }

    async fn attach_devices(&self, devices: &[BlockDevice]) -> Result<Vec<HostDevice>, Refusal> {
        match devices {
            [] => Ok(Vec::new()),
            _ => Err(Refusal::new(Kind::FailedPrecondition, "a trial has no upper disk")),
        }
    }

    async fn release(&self, _offset_bytes: u64) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no upper disk"))
    }

    fn dismantle(&self, _container: &str) -> Result<(), Refusal> {
        Ok(())
    }
}
