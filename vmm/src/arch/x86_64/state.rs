//! State of vCPUs and of the machine around them. The order of requests here is deliberate; each deviation is a known
//! way to lose a timer or an interrupt.

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{cpuid, msr};
use crate::kvm::{self, Kvm, KvmError, Vm, refused};

/// Most registers in a saved vCPU.
const MAX_MSRS: usize = 512;
/// The two 8259 and the I/O APIC.
const IRQ_CHIPS: u32 = 3;
/// Beyond this the guest's clocks would drift: 250 parts per million, as the NTP daemon's limit has it.
const TSC_TOLERANCE_PPM: u64 = 250;

/// Processor state could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state breaks a rule.
    #[error("the bake's processor state is not valid: {rule}")]
    Invalid {
        /// The rule.
        rule: &'static str,
    },
    /// A register can't be set to the saved value.
    #[error("this host can't set model-specific register {index:#x} to {value:#x}, as the bake asks")]
    Msr {
        /// Its number.
        index: u32,
        /// The saved value.
        value: u64,
    },
    /// The time stamp counters differ.
    #[error("the bake was made at a TSC frequency of {saved} kHz, this host has {host} kHz; make the bake anew")]
    Frequency {
        /// In the bake.
        saved: u32,
        /// Of the host.
        host: u32,
    },
    /// KVM refused.
    #[error("processor state can't be transferred")]
    Kvm(#[from] KvmError),
}

/// State of one vCPU.
#[derive(Debug, Serialize, Deserialize)]
pub struct VcpuState {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    tsc_khz: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    msrs: Vec<kvm_msr_entry>,
    events: kvm_vcpu_events,
}

impl VcpuState {
    /// Reads the state of a vCPU that doesn't run and has completed its last exit.
    pub fn save(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, StateError> {
        // First: it makes KVM act on pending INIT and SIPI, which changes registers.
        let mp_state = vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?;
        let regs = vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
        let sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
        let xsave = vcpu.get_xsave().map_err(refused("KVM_GET_XSAVE"))?;
        let xcrs = vcpu.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
        let debug = vcpu.get_debug_regs().map_err(refused("KVM_GET_DEBUGREGS"))?;
        let lapic = vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?;
        let tsc_khz = vcpu.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
        let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(refused("KVM_GET_CPUID2"))?.as_slice().to_vec();
        let msrs = msr::in_restore_order(msr::read(vcpu, &msr::saved_registers(kvm)?)?);
        // Last: the requests above may have turned a pending exception into an injected one.
        let events = vcpu.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?;
        Ok(Self { mp_state, regs, sregs, xsave, xcrs, debug, lapic, tsc_khz, cpuid, msrs, events })
    }

    /// Checks what KVM itself wouldn't.
    pub fn validate(&self) -> Result<(), StateError> {
        let invalid = |rule| Err(StateError::Invalid { rule });
        match self {
            _ if self.cpuid.is_empty() || self.cpuid.len() > KVM_MAX_CPUID_ENTRIES => invalid("number of CPUID leaves"),
            _ if self.msrs.len() > MAX_MSRS => invalid("number of model-specific registers"),
            _ if self.tsc_khz == 0 => invalid("TSC frequency above zero"),
            _ => Ok(()),
        }
    }

    /// Puts a fresh vCPU, the `index`th of `count`, into this state, but for its timer ([`Self::arm_timer`]).
    pub fn restore(&self, vcpu: &VcpuFd, index: u8, count: u8) -> Result<(), StateError> {
        self.accompany(vcpu, index, count)?;
        vcpu.set_mp_state(self.mp_state).map_err(refused("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(refused("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(refused("KVM_SET_SREGS"))?;
        kvm::set_xsave(vcpu, &self.xsave)?;
        vcpu.set_xcrs(&self.xcrs).map_err(refused("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&self.debug).map_err(refused("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(refused("KVM_SET_LAPIC"))?;
        msr::write_all_but_deadline(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).map_err(refused("KVM_SET_VCPU_EVENTS"))?;
        Ok(())
    }

    /// Makes a fresh vCPU, the `index`th of `count`, one of the same kind. In all else it stays as it was made: it waits
    /// until the guest brings it up.
    pub fn accompany(&self, vcpu: &VcpuFd, index: u8, count: u8) -> Result<(), StateError> {
        self.check_frequency(vcpu)?;
        Ok(cpuid::set_cpuid(vcpu, &cpuid::for_vcpu(&self.cpuid, index, count))?)
    }

    /// Arms the timer. After the local APIC, which has to be in deadline mode, and after the time stamp counter, whose
    /// value decides when it fires.
    pub fn arm_timer(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        msr::write_deadline(vcpu, &self.msrs)
    }

    /// A state without any content, for tests of what surrounds it.
    #[cfg(test)]
    pub(crate) fn blank() -> Self {
        Self {
            mp_state: kvm_mp_state::default(),
            regs: kvm_regs { rip: 0xfff0, ..Default::default() },
            sregs: kvm_sregs::default(),
            xsave: kvm_xsave::default(),
            xcrs: kvm_xcrs::default(),
            debug: kvm_debugregs::default(),
            lapic: kvm_lapic_state::default(),
            tsc_khz: 1,
            cpuid: vec![kvm_cpuid_entry2::default()],
            msrs: vec![kvm_msr_entry { index: 0x10, data: 7, ..Default::default() }],
            events: kvm_vcpu_events::default(),
        }
    }

    /// Scaling would do too, but bakes of another frequency aren't found in the first place.
    fn check_frequency(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        let host = vcpu.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
        let saved = self.tsc_khz;
        let tolerance = u64::from(saved) * TSC_TOLERANCE_PPM / 1_000_000;
        if u64::from(host.abs_diff(saved)) > tolerance {
            return Err(StateError::Frequency { saved, host });
        }
        Ok(())
    }
}

/// State of what the vCPUs share.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmState {
    time: Time,
    chips: Vec<kvm_irqchip>,
}

/// One moment on both clocks of a guest. They are two views of one time, which the guest compares: its watchdog
/// distrusts a counter that has drifted from the clock by some 100 microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Time {
    /// The paravirtual clock.
    clock_ns: u64,
    /// The time stamp counter, the same on all vCPUs.
    tsc: u64,
}

impl Time {
    /// The counter when the clock has gone on to `clock_ns`.
    fn tsc_at(self, clock_ns: u64, tsc_khz: u32) -> u64 {
        let ticks = u128::from(clock_ns.saturating_sub(self.clock_ns)) * u128::from(tsc_khz) / 1_000_000;
        // The counter wraps; so many ticks that they don't fit are nonsense, and any value is as good.
        self.tsc.wrapping_add(ticks as u64)
    }
}

impl VmState {
    /// Reads the state, after the vCPUs'.
    pub fn save(vm: &Vm, vcpus: &[VcpuFd]) -> Result<Self, StateError> {
        let offset = vcpus.first().map_or(Ok(0), kvm::tsc_offset)?;
        let now = vm.clock()?;
        let time = Time { clock_ns: now.nanoseconds, tsc: now.host_tsc.wrapping_add(offset) };
        let chips = (0..IRQ_CHIPS).map(|chip| vm.irqchip(chip)).collect::<Result<_, _>>()?;
        Ok(Self { time, chips })
    }

    /// A state without any content, for tests of what surrounds it.
    #[cfg(test)]
    pub(crate) fn blank() -> Self {
        let chip = |chip_id| kvm_irqchip { chip_id, ..Default::default() };
        Self { time: Time::default(), chips: (0..IRQ_CHIPS).map(chip).collect() }
    }

    /// Checks what KVM itself wouldn't.
    pub fn validate(&self) -> Result<(), StateError> {
        if self.chips.iter().map(|chip| chip.chip_id).eq(0..IRQ_CHIPS) {
            Ok(())
        } else {
            Err(StateError::Invalid { rule: "two 8259 and one I/O APIC" })
        }
    }

    /// Restores the state, after the vCPUs'.
    pub fn restore(&self, vm: &Vm, vcpus: &[VcpuFd]) -> Result<(), StateError> {
        self.restore_time(vm, vcpus)?;
        for vcpu in vcpus {
            // Tells the guest's watchdogs that it was stopped. Refused if the guest has no such clock.
            let _unused_clock = vcpu.kvmclock_ctrl();
        }
        for chip in &self.chips {
            vm.set_irqchip(chip)?;
        }
        Ok(())
    }

    /// Lets the guest's clock go on where it stopped, and its counters with it. The counters were read one after the
    /// other and a while before the clock, so they are all set to what they were when the clock was read.
    fn restore_time(&self, vm: &Vm, vcpus: &[VcpuFd]) -> Result<(), StateError> {
        let Some(first) = vcpus.first() else { return Ok(()) };
        let tsc_khz = first.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?;
        vm.set_clock(self.time.clock_ns)?;
        let now = vm.clock()?;
        let offset = self.time.tsc_at(now.nanoseconds, tsc_khz).wrapping_sub(now.host_tsc);
        vcpus.iter().try_for_each(|vcpu| kvm::set_tsc_offset(vcpu, offset))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_on_with_the_clock() {
        let time = Time { clock_ns: 5_000, tsc: 100 };
        assert_eq!(time.tsc_at(5_000, 2_400_000), 100);
        assert_eq!(time.tsc_at(6_000, 2_400_000), 100 + 2_400);
        assert_eq!(time.tsc_at(4_000, 2_400_000), 100, "the clock doesn't go back");
        assert_eq!(Time { clock_ns: 0, tsc: u64::MAX }.tsc_at(1_000, 1_000_000), 999, "the counter wraps");
        Time { clock_ns: 0, tsc: u64::MAX }.tsc_at(u64::MAX, u32::MAX);
    }
}
