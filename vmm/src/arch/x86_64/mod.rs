//! x86-64.

mod acpi;
mod bootstrap;
mod cpuid;
mod generation;
mod kernel;
mod layout;
mod msr;
mod ports;
mod state;

pub use cpuid::{Processor, Template};
pub use generation::{GenerationError, announce_generation, begin_generation};
pub use kernel::{KernelError, load_kernel};
pub use layout::ram_ranges;
pub use msr::saved_registers;
pub use ports::Ports;
pub use state::{StateError, VcpuState, VmState};

use kvm_ioctls::VcpuFd;

use crate::kvm::{KvmError, Vm, refused};

/// Makes the interrupt controllers and then the vCPUs (which get their local APIC only if those exist). After the
/// guest's memory is mapped.
pub fn create_vcpus(vm: &Vm, count: u8) -> Result<Vec<VcpuFd>, KvmError> {
    // Three pages that KVM needs on Intel processors, below the last 256 KiB under 4 GiB and away from guest memory.
    vm.fd().set_identity_map_address(layout::IDENTITY_MAP).map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.fd().set_tss_address(layout::TSS).map_err(refused("KVM_SET_TSS_ADDR"))?;
    vm.fd().create_irq_chip().map_err(refused("KVM_CREATE_IRQCHIP"))?;
    (0..count).map(|index| vm.create_vcpu(index)).collect()
}
