//! What differs between processor architectures. Another architecture adds a folder with the same items.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{
    GenerationError, KernelError, Ports, Processor, StateError, Template, VcpuState, VmState, announce_generation,
    begin_generation, create_vcpus, load_kernel, ram_ranges, saved_registers,
};
