//! Why a VM could not be started.

use std::io;
use std::path::PathBuf;

use vmm_api::FailureKind;

use crate::disks::DiskError;
use crate::error::ErrorKind;
use crate::kvm::KvmError;
use crate::launch::LaunchError;
use crate::machine::MachineError;
use crate::vmm::{SpawnError, VmmError};

/// A VM could not be started. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The host can't run VMs.
    #[error("this host can't run virtual machines")]
    Machine(#[source] MachineError),
    /// A file of the launch.
    #[error("the virtual machine's files can't be opened")]
    Launch(#[source] LaunchError),
    /// A file of the host that was there a moment ago.
    #[error("cannot open {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VM's directory.
    #[error("cannot use the directory {} for the virtual machine's logs", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The VMM can't be spawned.
    #[error("the virtual machine monitor can't be started")]
    Spawn(#[source] SpawnError),
    /// The VMM refused or ended.
    #[error("the virtual machine could not be started")]
    Vmm(#[source] VmmError),
    /// KVM turned out to be unusable.
    #[error("no usable KVM")]
    Kvm(#[source] KvmError),
    /// The agent gave no answer in time.
    #[error("the guest's agent gave no answer within {seconds} s{}", console(lines))]
    AgentSilent {
        /// How long it had.
        seconds: u64,
        /// Last lines of the guest's console.
        lines: Vec<String>,
    },
    /// The agent answered with an error.
    #[error("the guest's agent refused to start{}", console(lines))]
    Agent {
        /// Last lines of the guest's console.
        lines: Vec<String>,
        /// What it said.
        #[source]
        source: Box<ttrpc::Error>,
    },
    /// Moving the VMM to its cgroup failed.
    #[error("the virtual machine monitor can't be moved to the cgroup {}", path.display())]
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket or random bytes couldn't be had.
    #[error("the connection to the guest's agent can't be made")]
    Io(#[source] io::Error),
}

fn console(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("; the guest's last lines: {}", lines.join(" | ")) }
}

impl StartError {
    /// Whether another VM has the disk.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Launch(LaunchError::Disk(DiskError::InUse { .. })))
    }

    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Machine(error) => error.kind(),
            Self::Launch(error) => error.kind(),
            Self::Open { .. } | Self::Spawn(_) | Self::Kvm(_) => ErrorKind::FailedPrecondition,
            Self::Vmm(error) => error.kind(),
            Self::AgentSilent { .. } => ErrorKind::DeadlineExceeded,
            Self::Directory { .. } | Self::Cgroup { .. } | Self::Agent { .. } | Self::Io(_) => ErrorKind::Internal,
        }
    }

    /// Whether a bake may be to blame, and another start without it may succeed.
    pub(super) fn blames_the_bake(&self) -> bool {
        match self {
            Self::Vmm(VmmError::Refused { kind, .. }) => *kind == FailureKind::BadBake,
            Self::Vmm(VmmError::Died { .. } | VmmError::Silent { .. } | VmmError::Unexpected)
            | Self::AgentSilent { .. } => true,
            // An agent that refuses has understood what this machine is to be, which is no bake's doing.
            Self::Agent { source, .. } => !matches!(**source, ttrpc::Error::RpcStatus(_)),
            _ => false,
        }
    }
}
