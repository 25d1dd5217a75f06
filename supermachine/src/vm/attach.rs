//! Disks of a running VM: those of a further container come, and go with it.

use std::time::Duration;

use agent_proto::{ReleaseUpperRequest, RootFilesystem};
use ttrpc::context::with_duration;
use vmm_api::{Reply, Request};

use crate::disks::{DiskError, Opened, RootDisks};
use crate::error::ErrorKind;
use crate::launch::Attachments;
use crate::vm::Vm;
use crate::vmm::VmmError;

/// How long the guest may take to let go of a disk, some of which its kernel does in the background.
const AGENT_WITHIN: Duration = Duration::from_secs(10);

/// A running VM was not given a root file system. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The VMM.
    #[error("the virtual machine can't be given further disks")]
    Vmm(#[source] VmmError),
}

impl AttachError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk(error) => error.kind(),
            Self::Vmm(error) => error.kind(),
        }
    }
}

/// A VM keeps a disk until its end.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// The guest.
    #[error("the guest doesn't let go of a disk")]
    Agent(#[source] Box<ttrpc::Error>),
    /// The VMM.
    #[error("the virtual machine monitor doesn't let go of a disk")]
    Vmm(#[source] VmmError),
}

pub(super) async fn attach(vm: &Vm, root: &RootDisks) -> Result<RootFilesystem, AttachError> {
    let mut files = Opened::open(root)?;
    let mut places = vm.places.lock().await;
    let before = places.clone();
    // Noted before it is asked for: if nobody waits for the answer, nothing else is put there.
    let rootfs = places.put(&mut files).inspect_err(|_| places.clone_from(&before))?;
    if !files.is_empty() {
        let mut attachments = Attachments::default();
        let disks = files.attach(None, &mut attachments);
        let request = Request::AttachDisks { disks, upper_start: rootfs.upper_offset_bytes };
        vm.ask(&request, &attachments, &Reply::Attached).await.map_err(|error| {
            places.clone_from(&before);
            AttachError::Vmm(error)
        })?;
    }
    Ok(rootfs)
}

pub(super) async fn detach(vm: &Vm, rootfs: &RootFilesystem) -> Result<(), DetachError> {
    if rootfs.writable { detach_at(vm, rootfs.upper_offset_bytes).await } else { Ok(()) }
}

/// Takes away what begins at a place of the upper disk: from the guest, and then from the VMM.
pub(super) async fn detach_at(vm: &Vm, start: u64) -> Result<(), DetachError> {
    let mut places = vm.places.lock().await;
    let release = ReleaseUpperRequest { offset_bytes: start, ..Default::default() };
    let released = vm.agent().release_upper(with_duration(AGENT_WITHIN), &release).await;
    released.map_err(|error| DetachError::Agent(Box::new(error)))?;
    let request = Request::DetachUpper { start };
    vm.ask(&request, &Attachments::default(), &Reply::Detached).await.map_err(DetachError::Vmm)?;
    places.leave(start);
    Ok(())
}
