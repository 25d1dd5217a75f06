//! What this host can show to guests, for the machine key.

use std::os::fd::OwnedFd;

use sha2::{Digest, Sha256};
use vmm_api::MachineFacts;

use crate::arch::{self, Template};
use crate::kvm::{Kvm, KvmError, refused};

/// Describes the host behind `/dev/kvm`.
pub fn describe(kvm: OwnedFd) -> Result<MachineFacts, KvmError> {
    let kvm = Kvm::open(kvm)?;
    kvm.check_capabilities()?;
    let template = Template::of_host(&kvm)?;
    let processor = template.processor();
    let mut sha = Sha256::new_with_prefix(template.digest());
    for register in arch::saved_registers(&kvm)? {
        sha.update(register.to_le_bytes());
    }
    // The frequency is a property of vCPUs, so one is made for a moment.
    let vm = kvm.create_vm()?;
    let tsc_khz = vm.create_vcpu(0)?.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
    Ok(MachineFacts {
        vendor: processor.vendor,
        family: processor.family,
        model: processor.model,
        stepping: processor.stepping,
        cpuid_hash: sha.finalize().into(),
        tsc_khz,
        kvm_api_version: kvm.api_version(),
        device_layout: devices::layout::VERSION,
    })
}
