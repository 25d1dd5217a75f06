//! Gathering what a bake depends on.

use std::path::Path;
use std::time::Duration;

use bake::{Digest, DigestError, DigestMemo, FileIdentity, MachineFacts};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use vmm_api::{FailureKind, Reply, Request};

use crate::blocking::apart;
use crate::error::ErrorKind;
use crate::kvm::KvmError;
use crate::launch::Attachments;
use crate::machine::{Machine, MachineError};
use crate::vmm::{Logs, Process, SpawnError, VmmError};

/// How long the VMM may take to describe the machine.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(30);

/// The VMM didn't describe the machine.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    /// It can't be started.
    #[error("it can't be started")]
    Spawn(#[source] SpawnError),
    /// It failed.
    #[error("it failed")]
    Vmm(#[source] VmmError),
    /// It found KVM unusable.
    #[error("it found no usable KVM")]
    Kvm(#[source] KvmError),
    /// It answered something else.
    #[error("it answered with something else; the VMM and this program are of different versions: run `make install`")]
    Unexpected,
}

impl DescribeError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Kvm(_) | Self::Spawn(_) | Self::Unexpected => ErrorKind::FailedPrecondition,
            Self::Vmm(error) => error.kind(),
        }
    }
}

/// The VMM's description, good as long as VMM and KVM are the same. The file it is kept in doesn't survive a reboot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Described {
    vmm: FileIdentity,
    kvm: FileIdentity,
    facts: vmm_api::MachineFacts,
}

pub(crate) async fn gather(machine: &Machine) -> Result<MachineFacts, MachineError> {
    let [vmm, kernel, initrd] = digests(machine).await.map_err(MachineError::Digest)?;
    let described = describe(machine).await?;
    Ok(MachineFacts {
        architecture: std::env::consts::ARCH.to_owned(),
        backend: format!("kvm-{}", described.kvm_api_version),
        cpu_vendor: described.vendor,
        cpu_family: described.family,
        cpu_model: described.model,
        cpu_stepping: described.stepping,
        cpuid: Digest(described.cpuid_hash),
        tsc_khz: described.tsc_khz,
        host_kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        vmm,
        kernel,
        initrd,
        device_layout: described.device_layout,
        memory_bytes: machine.shape.memory_bytes,
        vcpus: machine.shape.room(),
        cmdline: machine.cmdline.clone(),
    })
}

/// Content digests of VMM, kernel and initial ramdisk, remembered as long as the files don't change.
async fn digests(machine: &Machine) -> Result<[Digest; 3], DigestError> {
    let mut memo = DigestMemo::load(machine.run.join("digests"));
    let paths = [machine.vmm.clone(), machine.kernel.clone(), machine.initrd.clone()];
    if let [Some(vmm), Some(kernel), Some(initrd)] =
        [memo.recall(&paths[0])?, memo.recall(&paths[1])?, memo.recall(&paths[2])?]
    {
        return Ok([vmm, kernel, initrd]);
    }
    let is_remembering = machine.is_remembering;
    // Reads tens of megabytes.
    let compute = move || {
        let digests = [memo.digest(&paths[0])?, memo.digest(&paths[1])?, memo.digest(&paths[2])?];
        if is_remembering {
            memo.save();
        }
        Ok(digests)
    };
    apart(compute).await
}

async fn describe(machine: &Machine) -> Result<vmm_api::MachineFacts, MachineError> {
    let identity = |path: &Path| {
        let metadata = std::fs::metadata(path)
            .map_err(|source| MachineError::Digest(DigestError { path: path.to_owned(), source }))?;
        Ok(FileIdentity::from(&metadata))
    };
    let (vmm, kvm) = (identity(&machine.vmm)?, identity(&machine.kvm_path)?);
    let record = machine.run.join("machine");
    if let Some(known) = bake::load_record::<Described>(&record)
        && (known.vmm, known.kvm) == (vmm, kvm)
    {
        return Ok(known.facts);
    }
    let facts = ask(machine).await.map_err(MachineError::Describe)?;
    if machine.is_remembering && vmm.is_settled() {
        let described = Described { vmm, kvm, facts: facts.clone() };
        if let Err(error) = bake::save_record(&record, &described) {
            tracing::warn!(file = %record.display(), %error, "the machine's description can't be remembered");
        }
    }
    Ok(facts)
}

/// Starts a VMM that says what it finds and stops.
async fn ask(machine: &Machine) -> Result<vmm_api::MachineFacts, DescribeError> {
    let log = memfd_create("vmm-log", MemfdFlags::CLOEXEC)
        .map_err(|error| DescribeError::Spawn(SpawnError::log(error.into())))?;
    let logs = Logs { vmm: log.into(), console: None };
    let process = Process::spawn(&machine.vmm, logs).map_err(DescribeError::Spawn)?;
    let mut attachments = Attachments::default();
    let request = Request::Describe { kvm: attachments.attach(&machine.kvm) };
    let reply = process.ask(&request, &attachments, DESCRIBE_WITHIN).await.map_err(|error| match error {
        VmmError::Refused { kind: FailureKind::Kvm, message } => DescribeError::Kvm(KvmError::Lacking { message }),
        other => DescribeError::Vmm(other),
    })?;
    match reply {
        Reply::Described(facts) => Ok(facts),
        _ => Err(DescribeError::Unexpected),
    }
}
