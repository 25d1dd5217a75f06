//! What the agent does to the machine it runs on, apart from containers.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use agent_proto::{
    BlockDevice, Change, ConfigureNetworkRequest, ExportUpperRequest, ExportUpperResponse, PrepareImageRequest,
    ResumeRequest, RootFilesystem,
};
use async_trait::async_trait;

use crate::container::HostDevice;
use crate::refusal::Refusal;

/// The machine under the agent. The real one is [`VirtualMachine`](crate::machine::VirtualMachine); tests put
/// containers on a directory instead.
#[async_trait]
pub(crate) trait Guest: Send + Sync + 'static {
    /// Makes this machine one of its own after a boot or a restore: randomness, clock, name.
    fn resume(&self, request: &ResumeRequest) -> Result<(), Refusal>;
    /// Sets the wall clock, to nanoseconds since the epoch.
    fn set_clock(&self, realtime_ns: u64) -> Result<(), Refusal>;
    /// Mounts the layers of an image and reads what its programs begin with.
    async fn prepare_image(&self, request: &PrepareImageRequest) -> Result<(), Refusal>;
    /// Makes the machine fit to be captured.
    fn prepare_capture(&self) -> Result<(), Refusal>;
    /// Makes a network card the interface that is described, and returns when its link is up.
    async fn configure_network(&self, request: &ConfigureNetworkRequest) -> Result<(), Refusal>;
    /// Takes the interface that a network card is away.
    async fn remove_interface(&self, card: u32) -> Result<(), Refusal>;
    /// The handle of the network namespace that containers are in, if it isn't the agent's.
    fn network(&self) -> Option<PathBuf>;
    /// The same for a container that is to have a network that will only come later.
    fn promise_network(&self) -> Option<PathBuf>;
    /// Takes a promised network away that hasn't come.
    async fn settle_network(&self) -> Result<(), Refusal>;
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
    /// Makes the host's files appear in [`agent_proto::VOLUMES`], if they don't yet.
    async fn mount_volumes(&self) -> Result<(), Refusal>;
    /// Has programs that watch them hear of changes.
    async fn notice(&self, changes: Vec<Change>) -> Result<(), Refusal>;
    /// Lets go of some of them, which no container has any more.
    async fn release_volumes(&self, names: &[String]) -> Result<(), Refusal>;
    /// Makes block devices of the host appear, for the container that is about to be made.
    async fn attach_devices(&self, devices: &[BlockDevice]) -> Result<Vec<HostDevice>, Refusal>;
    /// Forgets the part of the upper disk that begins there, which no container has any more, with everything written to
    /// it on the disk.
    async fn release(&self, offset_bytes: u64) -> Result<(), Refusal>;
    /// Writes what a writable layer holds to `archive`, unless it is as known.
    async fn export(&self, request: &ExportUpperRequest, archive: OwnedFd) -> Result<ExportUpperResponse, Refusal>;
}
