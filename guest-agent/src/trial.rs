//! The agent on an ordinary machine, with containers on directories: for tests of everything but boot and disks.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use agent_proto::{ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, ResumeRequest, RootFilesystem};
use async_trait::async_trait;

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
}

/// Serves on two listening sockets. Every container's root file system is the same directory; the machine's clock, randomness and name stay as they are. Must be called while the process has
/// a single thread; never returns unless it fails.
pub fn serve_directory(rpc: OwnedFd, streams: OwnedFd, ground: &Ground<'_>) -> Result<(), TrialError> {
    let failed = |step| move |source| TrialError::Step { step, source };
    let zygote = zygote::fork(ground.cgroup_root.to_owned()).map_err(failed("fork the zygote"))?;
    let sockets = Sockets { rpc, streams, zygote };
    let guest = DirectoryGuest { rootfs: ground.rootfs.to_owned() };
    let places = Places { cgroups: ground.cgroup_root.to_owned(), files: ground.files.to_owned() };
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

    fn prepare_capture(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn configure_network(&self, _request: &ConfigureNetworkRequest) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no network card"))
    }

    fn network(&self) -> Option<PathBuf> {
        None
    }

    async fn assemble(
        &self,
        _container: &str,
        _rootfs: &RootFilesystem,
        _content: Option<OwnedFd>,
    ) -> Result<PathBuf, Refusal> {
        Ok(self.rootfs.clone())
    }

    async fn export(&self, _request: &ExportUpperRequest, _archive: OwnedFd) -> Result<ExportUpperResponse, Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no upper disk"))
    }

    async fn release(&self, _offset_bytes: u64) -> Result<(), Refusal> {
        Err(Refusal::new(Kind::FailedPrecondition, "a trial has no upper disk"))
    }

    fn dismantle(&self, _container: &str) -> Result<(), Refusal> {
        Ok(())
    }
}
