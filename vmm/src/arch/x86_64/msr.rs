//! Which model-specific registers are saved, and in which order they are restored.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::state::StateError;
use crate::kvm::{Kvm, KvmError, refused};

const TSC: u32 = 0x10;
const TSC_DEADLINE: u32 = 0x6e0;
const DEBUG_CONTROL: u32 = 0x1d9;

/// Registers that KVM lists but a guest of this VMM never sees: performance counters, last-branch records, debug
/// store, nested virtualisation, Hyper-V's synthetic ones, and counters that only count.
const LEFT_OUT: &[(u32, u32)] = &[
    (0x34, 0x34),
    (0xc1, 0xc8),
    (0x186, 0x18d),
    (0x1c8, 0x1c9),
    (0x309, 0x30f),
    (0x329, 0x329),
    (0x345, 0x345),
    (0x38d, 0x390),
    (0x3f1, 0x3f2),
    (0x480, 0x4ff),
    (0x560, 0x5ff),
    (0x600, 0x600),
    (0x14ce, 0x14cf),
    (0x1500, 0x16ff),
    (0x4000_0000, 0x4000_ffff),
    (0xc000_0104, 0xc000_0104),
    (0xc000_0300, 0xc000_0303),
    (0xc001_0000, 0xc001_0007),
    (0xc001_0114, 0xc001_0117),
    (0xc001_0200, 0xc001_020f),
];

/// KVM's own registers (clock, steal time, end of interrupt, polling). Older kernels list only some of them.
const PARAVIRTUAL: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4dff;
const PARAVIRTUAL_SAVED: &[u32] = &[0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d03, 0x4b56_4d04, 0x4b56_4d05];

/// Memory types, which KVM does not list although it keeps them.
const MEMORY_TYPES: &[u32] = &[
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f,
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x277, 0x2ff,
];

/// The registers to save on this host. A register that turns out unreadable is left out when it is saved.
pub fn saved_registers(kvm: &Kvm) -> Result<Vec<u32>, KvmError> {
    let mut indices = kvm.msr_indices()?;
    indices.retain(|index| {
        !PARAVIRTUAL.contains(index) && !LEFT_OUT.iter().any(|(first, last)| (first..=last).contains(&index))
    });
    indices.extend(PARAVIRTUAL_SAVED);
    indices.extend(MEMORY_TYPES);
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

/// Reads the registers, without those that this vCPU doesn't have.
pub(super) fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let wanted: Vec<_> = rest.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
        let mut msrs = to_kvm(&wanted)?;
        // KVM stops at the first register that it can't read and says how many it read.
        let read = vcpu.get_msrs(&mut msrs).map_err(refused("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice().iter().take(read));
        rest = rest.get(read + 1..).unwrap_or_default();
    }
    values.retain(|msr| !says_nothing(msr));
    Ok(values)
}

/// Whether a register holds what a fresh vCPU has, and writing it isn't free: on AMD processors without virtual
/// last-branch records KVM complains in the host's log about each write of debug control, zero or not.
fn says_nothing(msr: &kvm_msr_entry) -> bool {
    msr.index == DEBUG_CONTROL && msr.data == 0
}

/// Puts saved registers into the order in which they must be written, the TSC deadline after the TSC. A deadline of
/// zero means that the timer has fired, possibly without the guest having seen it, so it fires again at once: a
/// timer interrupt too many is harmless, one too few leaves an idle vCPU asleep for ever.
pub(super) fn in_restore_order(mut values: Vec<kvm_msr_entry>) -> Vec<kvm_msr_entry> {
    let tsc = values.iter().find(|msr| msr.index == TSC).map(|msr| msr.data);
    if let Some(position) = values.iter().position(|msr| msr.index == TSC_DEADLINE) {
        let mut deadline = values.remove(position);
        if deadline.data == 0 {
            deadline.data = tsc.unwrap_or(0);
        }
        values.push(deadline);
    }
    values
}

/// Writes the registers but for the TSC deadline.
pub(super) fn write_all_but_deadline(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), StateError> {
    write(vcpu, values, |index| index != TSC_DEADLINE)
}

/// Writes the TSC deadline, which arms the timer.
pub(super) fn write_deadline(vcpu: &VcpuFd, values: &[kvm_msr_entry]) -> Result<(), StateError> {
    write(vcpu, values, |index| index == TSC_DEADLINE)
}

/// Writes the wanted registers; one that can't be written is an error.
fn write(vcpu: &VcpuFd, values: &[kvm_msr_entry], is_wanted: fn(u32) -> bool) -> Result<(), StateError> {
    let wanted: Vec<_> = values.iter().copied().filter(|msr| is_wanted(msr.index)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let msrs = to_kvm(&wanted)?;
    let written = vcpu.set_msrs(&msrs).map_err(refused("KVM_SET_MSRS"))?;
    match msrs.as_slice().get(written) {
        Some(msr) => Err(StateError::Msr { index: msr.index, value: msr.data }),
        None => Ok(()),
    }
}

fn to_kvm(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_too_many| KvmError::Refused {
        request: "more model-specific registers than it has",
        source: std::io::Error::from_raw_os_error(libc::E2BIG),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn msr(index: u32, data: u64) -> kvm_msr_entry {
        kvm_msr_entry { index, data, ..Default::default() }
    }

    #[test]
    fn the_deadline_comes_last_and_a_fired_one_fires_again() {
        let ordered = in_restore_order(vec![msr(TSC_DEADLINE, 0), msr(TSC, 77), msr(0x277, 1)]);
        assert_eq!(ordered, [msr(TSC, 77), msr(0x277, 1), msr(TSC_DEADLINE, 77)]);
        let armed = in_restore_order(vec![msr(TSC, 77), msr(TSC_DEADLINE, 99), msr(0x277, 1)]);
        assert_eq!(armed.last(), Some(&msr(TSC_DEADLINE, 99)));
    }

    #[test]
    fn only_a_debug_control_that_is_set_is_written() {
        assert!(says_nothing(&msr(DEBUG_CONTROL, 0)));
        assert!(!says_nothing(&msr(DEBUG_CONTROL, 1)) && !says_nothing(&msr(0x277, 0)));
    }

    #[test]
    fn the_clock_is_saved_and_performance_counters_are_not() {
        let left_out = |index: u32| LEFT_OUT.iter().any(|(first, last)| (first..=last).contains(&&index));
        assert!(left_out(0x38f) && left_out(0xc001_0201) && left_out(0x480));
        for needed in [TSC, TSC_DEADLINE, 0x3b, 0x48, 0xda0, 0x122, 0xc000_0103, 0x1d9] {
            assert!(!left_out(needed), "{needed:#x}");
        }
        assert!(PARAVIRTUAL_SAVED.iter().all(|index| PARAVIRTUAL.contains(index)));
    }
}
