//! What the agent does to the machine it runs on, apart from containers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_proto::{ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, ResumeRequest, RootFilesystem};
use async_trait::async_trait;

use crate::refusal::Refusal;

/// The machine under the agent. The real one is [`VirtualMachine`](crate::machine::VirtualMachine); tests put
/// containers on a directory instead.
#[async_trait]
pub(crate) trait Guest: Send + Sync + 'static {
    /// Makes this machine one of its own after a boot or a restore: randomness, clock, name.
    fn resume(&self, request: &ResumeRequest) -> Result<(), Refusal>;
    /// Makes the machine fit to be captured.
    fn prepare_capture(&self) -> Result<(), Refusal>;
    /// Makes the machine's network card the interface that is described, and returns when its link is up.
    async fn configure_network(&self, request: &ConfigureNetworkRequest) -> Result<(), Refusal>;
    /// The handle of the network namespace that containers are to be in, if it isn't the agent's.
    fn network(&self) -> Option<PathBuf>;
    /// Assembles a container's root file system and answers where it is. Its writable layer first gets what the archive
    /// holds that `content` carries.
    async fn assemble(
        &self,
        container: &str,
        rootfs: &RootFilesystem,
        content: Option<OwnedFd>,
    ) -> Result<PathBuf, Refusal>;
    /// Takes it apart again, with everything written to it safe on the disk.
    fn dismantle(&self, container: &str) -> Result<(), Refusal>;
    /// Forgets the part of the upper disk that begins there, which no container has any more.
    async fn release(&self, offset_bytes: u64) -> Result<(), Refusal>;
    /// Writes what a writable layer holds to `archive`, unless it is as known.
    async fn export(&self, request: &ExportUpperRequest, archive: OwnedFd) -> Result<ExportUpperResponse, Refusal>;
}
