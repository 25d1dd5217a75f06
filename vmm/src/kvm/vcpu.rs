//! vCPU requests that `kvm-ioctls` doesn't offer, or not safely.

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr, kvm_xsave};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

use super::{KvmError, refused};

ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

/// Restores the extended register state. Right for guests whose state fits 4096 bytes: dynamic features (AMX) are
/// hidden from the guest and never enabled in this process, so KVM neither reads nor writes more.
pub fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), KvmError> {
    // SAFETY: KVM reads as many bytes as the guest's permitted features take. Without permission for dynamic
    // features, which only arch_prctl() grants and nothing here asks for, that is at most `kvm_xsave`'s 4096.
    unsafe { vcpu.set_xsave(xsave) }.map_err(refused("KVM_SET_XSAVE"))
}

/// The difference between the guest's time stamp counter and the host's.
pub fn tsc_offset(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    let mut offset = 0u64;
    let attribute = tsc_attribute(std::ptr::from_mut(&mut offset) as u64);
    // SAFETY: KVM writes 8 bytes at `addr`, which points to a live u64.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) };
    check("KVM_GET_DEVICE_ATTR(KVM_VCPU_TSC_OFFSET)", result)?;
    Ok(offset)
}

/// Sets the difference between the guest's time stamp counter and the host's.
pub fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), KvmError> {
    let attribute = tsc_attribute(std::ptr::from_ref(&offset) as u64);
    // SAFETY: KVM reads 8 bytes at `addr`, which points to a live u64.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    check("KVM_SET_DEVICE_ATTR(KVM_VCPU_TSC_OFFSET)", result)
}

fn tsc_attribute(addr: u64) -> kvm_device_attr {
    kvm_device_attr { group: KVM_VCPU_TSC_CTRL, attr: u64::from(KVM_VCPU_TSC_OFFSET), addr, flags: 0 }
}

fn check(request: &'static str, result: libc::c_int) -> Result<(), KvmError> {
    if result == 0 { Ok(()) } else { Err(KvmError::Refused { request, source: std::io::Error::last_os_error() }) }
}
