//! A virtual machine.

use std::sync::Arc;

use devices::{InterruptLine, Window, layout};
use kvm_bindings::{KVM_CLOCK_HOST_TSC, KVM_MEM_READONLY, kvm_clock_data, kvm_irqchip, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{KvmError, refused};
use crate::memory::GuestRam;

/// One moment on two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// The paravirtual clock.
    pub nanoseconds: u64,
    /// The host's time stamp counter.
    pub host_tsc: u64,
}

/// The host's time stamp counter.
fn host_tsc() -> u64 {
    // SAFETY: every 64-bit x86 processor has the instruction, and nothing here forbids it (PR_SET_TSC).
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// An interrupt line (edge) of a VM, raised by a call: behind an event, KVM raises a line of this kind in a thread of the
/// kernel's, which has to be woken first.
#[derive(Debug)]
pub struct Line {
    fd: Arc<VmFd>,
    gsi: u32,
}

impl Line {
    /// Raises it once. When this returns, the interrupt controllers have noted it.
    pub fn pulse(&self) -> Result<(), KvmError> {
        self.fd.set_irq_line(self.gsi, true).map_err(refused("KVM_IRQ_LINE"))?;
        self.fd.set_irq_line(self.gsi, false).map_err(refused("KVM_IRQ_LINE"))
    }
}

impl InterruptLine for Line {
    fn raise(&self) {
        // Refused only for a line that there isn't, or without interrupt controllers.
        let pulsed = self.pulse();
        debug_assert!(pulsed.is_ok(), "{pulsed:?}");
    }
}

/// A virtual machine. It keeps what is memory to its guest mapped for as long as it exists.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    memory: Option<(GuestRam, Window)>,
}

impl Vm {
    pub(super) fn new(fd: VmFd) -> Self {
        Self { fd: Arc::new(fd), memory: None }
    }

    /// Gives the guest its memory, one slot per region, and its devices' registers, for it to read. Before anything is put on the I/O bus: adding a slot later
    /// waits for a grace period of several milliseconds.
    pub fn map_memory(&mut self, ram: &GuestRam, registers: &Window) -> Result<(), KvmError> {
        let regions = ram.iter().map(|region| kvm_userspace_memory_region {
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
            ..Default::default()
        });
        // A write there leaves the guest as if nothing were there.
        let window = kvm_userspace_memory_region {
            flags: KVM_MEM_READONLY,
            guest_phys_addr: layout::MMIO_BASE,
            memory_size: registers.bytes(),
            userspace_addr: registers.address() as u64,
            ..Default::default()
        };
        for (slot, region) in (0..).zip(regions.chain([window])) {
            let region = kvm_userspace_memory_region { slot, ..region };
            // SAFETY: the region is live memory of exactly this size. `self.memory` keeps it alive, and so do the devices,
            // which hold the VM's descriptor too (`Line`): KVM has no use for it once both are gone.
            unsafe { self.fd.set_user_memory_region(region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        }
        self.memory = Some((ram.clone(), registers.clone()));
        Ok(())
    }

    /// The VM's descriptor, for what differs between architectures.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Makes a vCPU.
    pub fn create_vcpu(&self, index: u8) -> Result<VcpuFd, KvmError> {
        self.fd.create_vcpu(u64::from(index)).map_err(refused("KVM_CREATE_VCPU"))
    }

    /// Raises the interrupt line (edge) whenever the event is written.
    pub fn connect_interrupt(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.register_irqfd(event, gsi).map_err(refused("KVM_IRQFD"))
    }

    /// Ends that. When this returns, no interrupt is under way from the event to the interrupt controller.
    pub fn disconnect_interrupt(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.unregister_irqfd(event, gsi).map_err(refused("KVM_IRQFD"))
    }

    /// An interrupt line.
    pub fn line(&self, gsi: u32) -> Line {
        Line { fd: Arc::clone(&self.fd), gsi }
    }

    /// Writes the event whenever a guest writes `value`, 4 bytes, to the address.
    pub fn connect_notifier(&self, address: u64, value: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd.register_ioevent(event, &IoEventAddress::Mmio(address), value).map_err(refused("KVM_IOEVENTFD"))
    }

    /// The paravirtual clock, and the host's time stamp counter at that moment.
    pub fn clock(&self) -> Result<Clock, KvmError> {
        let before = host_tsc();
        let read = self.fd.get_clock().map_err(refused("KVM_GET_CLOCK"))?;
        let after = host_tsc();
        // Known exactly where the host's own clock is the counter; otherwise the middle is the best guess.
        let is_exact = read.flags & KVM_CLOCK_HOST_TSC != 0;
        let middle = before.wrapping_add(after.wrapping_sub(before) / 2);
        Ok(Clock { nanoseconds: read.clock, host_tsc: if is_exact { read.host_tsc } else { middle } })
    }

    /// Sets the paravirtual clock, in nanoseconds.
    pub fn set_clock(&self, nanoseconds: u64) -> Result<(), KvmError> {
        let clock = kvm_clock_data { clock: nanoseconds, ..Default::default() };
        self.fd.set_clock(&clock).map_err(refused("KVM_SET_CLOCK"))
    }

    /// State of one interrupt controller chip.
    pub fn irqchip(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.fd.get_irqchip(&mut chip).map_err(refused("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    }

    /// Sets the state of one interrupt controller chip.
    pub fn set_irqchip(&self, chip: &kvm_irqchip) -> Result<(), KvmError> {
        self.fd.set_irqchip(chip).map_err(refused("KVM_SET_IRQCHIP"))
    }
}
