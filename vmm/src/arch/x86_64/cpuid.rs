//! The processor that guests see.
//!
//! A kernel looks once, at boot, and patches itself accordingly, so a bake can be restored only where the same
//! processor can be shown. What could not be saved or restored is hidden: performance counters, AMX (its state is
//! larger than the classic XSAVE area), shadow stacks, nested virtualisation, asynchronous page faults.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;
use sha2::{Digest, Sha256};
use vmm_api::MAX_VCPUS;

use crate::kvm::{Kvm, KvmError, refused};

/// Bits to take from a CPUID leaf: leaf, subleaf if only one is meant, and the bits to clear in eax, ebx, ecx, edx.
const HIDDEN: &[(u32, Option<u32>, [u32; 4])] = &[
    // PDCM (performance capabilities), VMX, SMX, MONITOR; DTES64/DS-CPL; DS, thermal monitoring, PBE.
    (0x1, None, [0, 0, bits(&[2, 3, 4, 5, 6, 8, 15]), bits(&[21, 22, 29, 31])]),
    // Shadow stacks, WAITPKG, ENQCMD, bus-lock detection; PKS. AMX, IBT, architectural LBR, uintr, hybrid.
    (0x7, Some(0), [0, bits(&[2, 12, 15, 25]), bits(&[5, 7, 24, 29, 31]), bits(&[5, 15, 19, 20, 22, 24, 25])]),
    // AMX-FP16, FRED, LKGS, LAM needs no state and stays; AMX-COMPLEX, CET supervisor shadow stack.
    (0x7, Some(1), [bits(&[17, 18, 19, 21]), 0, 0, bits(&[8, 18, 19])]),
    // XTILECFG and XTILEDATA.
    (0xd, Some(0), [bits(&[17, 18]), 0, 0, 0]),
    // XFD; the supervisor states PT, CET (two), HDC, UINTR, LBR.
    (0xd, Some(1), [bits(&[4]), 0, bits(&[8, 11, 12, 13, 14, 15]), 0]),
    // SVM, IBS, SKINIT, lightweight profiling, topology extensions' counters, MWAITX.
    (0x8000_0001, None, [0, 0, bits(&[2, 10, 12, 15, 23, 24, 28, 29]), 0]),
    // Asynchronous page faults (three bits) and migration control.
    (0x4000_0001, None, [bits(&[4, 10, 14, 17]), 0, 0, 0]),
];

/// Leaves that are emptied: MONITOR, thermal (all but the always-running timer), performance counters, SGX,
/// processor trace, AMX, AVX10 stays; SVM, IBS, encrypted memory, AMD performance counters and LBR.
const EMPTY: &[u32] = &[
    0x5,
    0xa,
    0x12,
    0x14,
    0x1a,
    0x1c,
    0x1d,
    0x1e,
    0x8000_000a,
    0x8000_001b,
    0x8000_001c,
    0x8000_001f,
    0x8000_0022,
    0x8000_0023,
];

const fn bits(positions: &[u32]) -> u32 {
    let mut mask = 0;
    let mut n = 0;
    while n < positions.len() {
        mask |= 1 << positions[n];
        n += 1;
    }
    mask
}

/// Processor identity, part of the machine key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// `GenuineIntel`, `AuthenticAMD`, ...
    pub vendor: String,
    /// Family, extended family included.
    pub family: u32,
    /// Model, extended model included.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// The CPUID leaves that all vCPUs have in common.
#[derive(Clone, Debug)]
pub struct Template {
    entries: Vec<kvm_cpuid_entry2>,
}

impl Template {
    /// What this host can show, without what is hidden.
    pub fn of_host(kvm: &Kvm) -> Result<Self, KvmError> {
        Ok(Self::normalise(kvm.supported_cpuid()?.as_slice()))
    }

    fn normalise(supported: &[kvm_cpuid_entry2]) -> Self {
        let mut entries: Vec<_> = supported.iter().copied().filter(|entry| !is_dropped(entry)).collect();
        for entry in &mut entries {
            if EMPTY.contains(&entry.function) {
                (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
            }
            for (function, index, [eax, ebx, ecx, edx]) in HIDDEN {
                if entry.function == *function && index.is_none_or(|index| entry.index == index) {
                    entry.eax &= !eax;
                    entry.ebx &= !ebx;
                    entry.ecx &= !ecx;
                    entry.edx &= !edx;
                }
            }
            match entry.function {
                // x2APIC, TSC deadline timer, hypervisor: given by KVM itself whatever the host has.
                0x1 => entry.ecx |= bits(&[21, 24, 31]),
                // Always-running APIC timer.
                0x6 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (entry.eax & bits(&[2]), 0, 0, 0),
                _ => {}
            }
        }
        shrink_xsave_area(&mut entries);
        entries.sort_by_key(|entry| (entry.function, entry.index));
        Self { entries }
    }

    /// Digest of all leaves, without what tells vCPUs apart and without what the host counts per run.
    pub fn digest(&self) -> [u8; 32] {
        let mut sha = Sha256::new();
        for entry in &self.entries {
            let mut words = [entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx];
            match entry.function {
                // The APIC id of the processor that was asked.
                0x1 => words[4] &= 0x00ff_ffff,
                0xb | 0x1f | 0x8000_001e => continue,
                // The XSAVE area for what was enabled when it was asked.
                0xd if entry.index <= 1 => words[4] = 0,
                _ => {}
            }
            for word in words {
                sha.update(word.to_le_bytes());
            }
        }
        sha.finalize().into()
    }

    /// Who made the processor and which it is.
    pub fn processor(&self) -> Processor {
        let leaf = |function| self.entries.iter().find(|entry| entry.function == function).copied().unwrap_or_default();
        let name = leaf(0);
        let vendor: Vec<u8> = [name.ebx, name.edx, name.ecx].into_iter().flat_map(u32::to_le_bytes).collect();
        let version = leaf(1).eax;
        let base_family = version >> 8 & 0xf;
        Processor {
            vendor: String::from_utf8_lossy(&vendor).into_owned(),
            family: if base_family == 0xf { base_family + (version >> 20 & 0xff) } else { base_family },
            model: version >> 4 & 0xf | (version >> 16 & 0xf) << 4,
            stepping: version & 0xf,
        }
    }

    /// Shows the processor to a vCPU. Before it runs; not again afterwards.
    pub fn apply(&self, vcpu: &VcpuFd, index: u8, count: u8) -> Result<(), KvmError> {
        set_cpuid(vcpu, &for_vcpu(&self.entries, index, count))
    }
}

/// The leaves of the `index`th of `count` vCPUs, made from those that they have in common or from those of another one.
///
/// How the id of a processor is read, by its bits, is the same for any count: the kernel holds on to what the first
/// processor said at boot. The counts are those of this machine, since programs size their buffers by them.
pub(super) fn for_vcpu(common: &[kvm_cpuid_entry2], index: u8, count: u8) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = common.iter().copied().filter(|entry| !matches!(entry.function, 0xb | 0x1f)).collect();
    let id = u32::from(index);
    let last = u32::from(count.max(1)) - 1;
    for entry in &mut entries {
        match entry.function {
            0x1 => {
                entry.ebx = entry.ebx & 0xffff | u32::from(count) << 16 | id << 24;
                // Several of them may be in this package.
                entry.edx |= bits(&[28]);
            }
            // Caches: the last level is shared by all, the others by none.
            0x4 | 0x8000_001d if entry.eax & 0x1f != 0 => {
                let shared = if entry.eax >> 5 & 7 >= 3 { last } else { 0 };
                let cores = if entry.function == 0x4 { last << 26 } else { 0 };
                entry.eax = entry.eax & 0x3fff | shared << 14 | cores;
            }
            0x8000_0008 => entry.ecx = last | ID_WIDTH << 12,
            // Extended APIC id, core id with one thread each, node 0 of one.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (id, id, 0, 0),
            _ => {}
        }
    }
    entries.extend(topology(id, count));
    entries
}

/// Leaves without any meaning here: hybrid and extended topology (leaf 0xb says it), Xen and Hyper-V live elsewhere.
fn is_dropped(entry: &kvm_cpuid_entry2) -> bool {
    entry.function == 0x1f || entry.function == 0xd && matches!(entry.index, 17 | 18)
}

/// Bits that number the processors of the largest machine.
const ID_WIDTH: u32 = MAX_VCPUS.next_power_of_two().trailing_zeros();

/// Leaf 0xb: one thread per core, `count` cores in one package.
fn topology(id: u32, count: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, ID_WIDTH, u32::from(count), 2), level(2, 0, 0, 0)]
}

/// States the size of the XSAVE area for the components that are left. KVM replaces `ebx`, the size for what is
/// enabled, as the guest enables components.
fn shrink_xsave_area(entries: &mut [kvm_cpuid_entry2]) {
    let legacy_and_header = 512 + 64;
    let user = entries
        .iter()
        .find(|e| e.function == 0xd && e.index == 0)
        .map_or(0, |e| u64::from(e.edx) << 32 | u64::from(e.eax));
    let end = entries
        .iter()
        .filter(|e| e.function == 0xd && (2..63).contains(&e.index) && user >> e.index & 1 == 1)
        .map(|e| e.eax.saturating_add(e.ebx))
        .fold(legacy_and_header, u32::max);
    if let Some(entry) = entries.iter_mut().find(|e| e.function == 0xd && e.index == 0) {
        entry.ecx = end;
        entry.ebx = end;
    }
}

/// Gives a vCPU its CPUID leaves.
pub(super) fn set_cpuid(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
    let too_many =
        |_| KvmError::Refused { request: "KVM_SET_CPUID2", source: std::io::Error::from_raw_os_error(libc::E2BIG) };
    vcpu.set_cpuid2(&CpuId::from_entries(entries).map_err(too_many)?).map_err(refused("KVM_SET_CPUID2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn full() -> Template {
        let all = [u32::MAX; 4];
        let mut entries = vec![
            entry(
                0,
                0,
                [0x1f, u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"ntel"), u32::from_le_bytes(*b"ineI")],
            ),
            entry(1, 0, [0x000c_06f2, u32::MAX, u32::MAX, u32::MAX]),
            entry(0xd, 0, [0x0006_02e7, 2696, 11008, 0]),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 9, [8, 2688, 0, 0]),
            entry(0xd, 18, [8192, 2816, 0, 0]),
            entry(0x1f, 0, all),
            entry(0x4, 3, [0x63, 0, 0, 0]),
            entry(0xb, 0, all),
        ];
        entries.extend([0x6, 0x7, 0xa, 0x1d, 0x4000_0001, 0x8000_0001, 0x8000_000a].map(|leaf| entry(leaf, 0, all)));
        Template::normalise(&entries)
    }

    fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        *entries.iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    #[test]
    fn what_cannot_be_saved_is_hidden() {
        let entries = full().entries;
        assert_eq!(leaf(&entries, 1, 0).ecx & bits(&[5, 15]), 0, "VMX, PDCM");
        assert_eq!(leaf(&entries, 7, 0).ecx & bits(&[5, 7]), 0, "WAITPKG, shadow stacks");
        assert_eq!(leaf(&entries, 7, 0).edx & bits(&[20, 22, 24, 25]), 0, "IBT, AMX");
        assert_eq!(leaf(&entries, 0x8000_0001, 0).ecx & bits(&[2]), 0, "SVM");
        assert_eq!(leaf(&entries, 0x4000_0001, 0).eax & bits(&[4]), 0, "asynchronous page faults");
        for empty in [0xa, 0x1d, 0x8000_000a] {
            let e = leaf(&entries, empty, 0);
            assert_eq!([e.eax, e.ebx, e.ecx, e.edx], [0; 4], "leaf {empty:#x}");
        }
        assert_eq!(leaf(&entries, 6, 0).eax, bits(&[2]));
        assert_eq!(leaf(&entries, 1, 0).ecx & bits(&[21, 24, 31]), bits(&[21, 24, 31]));
    }

    #[test]
    fn the_xsave_area_shrinks_with_its_components() {
        let entries = full().entries;
        let area = leaf(&entries, 0xd, 0);
        assert_eq!((area.eax, area.ebx, area.ecx), (0x0000_02e7, 2696, 2696));
        assert!(!entries.iter().any(|e| e.function == 0xd && e.index == 18));
    }

    #[test]
    fn vcpus_differ_in_their_ids_only() {
        let template = full();
        let (first, third) = (for_vcpu(&template.entries, 0, 4), for_vcpu(&template.entries, 2, 4));
        assert_eq!(leaf(&first, 1, 0).ebx >> 16, 4);
        assert_eq!(leaf(&third, 1, 0).ebx >> 16, 0x204);
        assert_eq!(leaf(&third, 0xb, 1).edx, 2);
        assert_eq!((leaf(&third, 0xb, 1).eax, leaf(&third, 0xb, 1).ebx), (ID_WIDTH, 4));
        assert_eq!(leaf(&first, 4, 3).eax >> 26, 3);
        assert_eq!(first.iter().filter(|e| e.function == 0xb).count(), 3);
    }

    #[test]
    fn the_leaves_of_one_vcpu_make_those_of_another() {
        let template = full();
        let alone = for_vcpu(&template.entries, 0, 1);
        assert_eq!(for_vcpu(&alone, 2, 4), for_vcpu(&template.entries, 2, 4));
        let most = for_vcpu(&alone, MAX_VCPUS - 1, MAX_VCPUS);
        assert_eq!(leaf(&most, 0xb, 1).eax, leaf(&alone, 0xb, 1).eax, "how ids are read");
        assert!(u32::from(MAX_VCPUS) <= 1 << ID_WIDTH);
    }

    #[test]
    fn the_digest_ignores_which_processor_was_asked() {
        let template = full();
        let mut other = template.clone();
        for e in &mut other.entries {
            match e.function {
                1 => e.ebx ^= 0xff << 24,
                0xb => e.edx ^= 7,
                _ => {}
            }
        }
        assert_eq!(template.digest(), other.digest());
        other.entries.iter_mut().find(|e| e.function == 7).unwrap().ebx ^= 1 << 5;
        assert_ne!(template.digest(), other.digest());
    }

    #[test]
    fn the_processor_is_named() {
        let named = full().processor();
        assert_eq!(named, Processor { vendor: "GenuineIntel".into(), family: 6, model: 0xcf, stepping: 2 });
    }
}
