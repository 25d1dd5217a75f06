//! The kernel's virtual machine interface: every ioctl that `kvm-ioctls` doesn't wrap safely, and errors that name
//! what was asked.
#![expect(unsafe_code, reason = "these ioctls have no safe interface")]

mod kick;
mod vcpu;
mod vm;

pub use kick::{Kickable, ignore_broken_pipes, install_kick_handler, kick_signal};
pub use vcpu::{set_tsc_offset, set_xsave, tsc_offset};
pub use vm::{Clock, Line, Vm};

use std::os::fd::{IntoRawFd, OwnedFd};

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_CAP_VCPU_ATTRIBUTES, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::Cap;

/// KVM lacks something or refused it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The descriptor isn't `/dev/kvm`, or KVM is too old or too new.
    #[error("/dev/kvm speaks version {version} of its interface, but {KVM_API_VERSION} is needed")]
    Version {
        /// What it answered.
        version: i32,
    },
    /// A needed capability is missing.
    #[error("this host's KVM lacks {capability}, which is needed; use a newer kernel")]
    Missing {
        /// Name of the capability.
        capability: &'static str,
    },
    /// A request failed.
    #[error("KVM refused {request}")]
    Refused {
        /// Name of the ioctl.
        request: &'static str,
        /// Its error number.
        #[source]
        source: std::io::Error,
    },
}

/// Turns an ioctl's error number into an error that names the ioctl.
pub fn refused(request: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Refused { request, source: std::io::Error::from_raw_os_error(error.errno()) }
}

/// An open `/dev/kvm` of the right version.
#[derive(Debug)]
pub struct Kvm(kvm_ioctls::Kvm);

impl Kvm {
    /// Takes over a descriptor that the caller says is `/dev/kvm`.
    pub fn open(fd: OwnedFd) -> Result<Self, KvmError> {
        use std::os::fd::FromRawFd;
        // SAFETY: `fd` is owned and given up here. If it isn't /dev/kvm, the ioctls fail.
        let kvm = Self(unsafe { kvm_ioctls::Kvm::from_raw_fd(fd.into_raw_fd()) });
        let version = kvm.0.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::Version { version });
        }
        Ok(kvm)
    }

    /// Version of the interface.
    pub fn api_version(&self) -> u32 {
        KVM_API_VERSION
    }

    /// Checks for what a VM is built on. Not on the restore path: a bake exists only where this once passed.
    pub fn check_capabilities(&self) -> Result<(), KvmError> {
        let needed = [
            (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
            (Cap::Irqfd, "KVM_CAP_IRQFD"),
            (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
            (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
            (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
            (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
            (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
            (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
            (Cap::MpState, "KVM_CAP_MP_STATE"),
            (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
            (Cap::Xsave, "KVM_CAP_XSAVE"),
            (Cap::Xcrs, "KVM_CAP_XCRS"),
            (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
            (Cap::TscDeadlineTimer, "KVM_CAP_TSC_DEADLINE_TIMER"),
        ];
        if let Some((_, capability)) = needed.into_iter().find(|(capability, _)| !self.0.check_extension(*capability)) {
            return Err(KvmError::Missing { capability });
        }
        // The time stamp counter's offset.
        if self.0.check_extension_raw(KVM_CAP_VCPU_ATTRIBUTES.into()) <= 0 {
            return Err(KvmError::Missing { capability: "KVM_CAP_VCPU_ATTRIBUTES" });
        }
        Ok(())
    }

    /// The CPUID leaves that this host can give a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.0.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("KVM_GET_SUPPORTED_CPUID"))
    }

    /// The model-specific registers that this host can save.
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        let list = self.0.get_msr_index_list().map_err(refused("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(list.as_slice().to_vec())
    }

    /// Makes an empty VM.
    pub fn create_vm(&self) -> Result<Vm, KvmError> {
        self.0.create_vm().map(Vm::new).map_err(refused("KVM_CREATE_VM"))
    }
}
