//! Guest physical addresses.

use vm_memory::GuestAddress;
use vmm_api::{ADDED_MEMORY, Shape};

/// Where memory below 4 GiB ends at the latest; device windows follow.
pub(super) const LOW_MEMORY_END: u64 = 3 << 30;
/// Where memory goes on.
pub(super) const HIGH_MEMORY: u64 = 4 << 30;

pub(super) const GDT: u64 = 0x500;
pub(super) const IDT: u64 = 0x520;
/// `struct boot_params`, "zero page".
pub(super) const ZERO_PAGE: u64 = 0x7000;
pub(super) const BOOT_STACK: u64 = 0x8ff0;
pub(super) const PML4: u64 = 0x9000;
pub(super) const PDPT: u64 = 0xa000;
pub(super) const PAGE_DIRECTORY: u64 = 0xb000;
pub(super) const CMDLINE: u64 = 0x2_0000;
/// Longest kernel command line, with its closing zero (`COMMAND_LINE_SIZE`).
pub(super) const CMDLINE_BYTES: usize = 2048;
/// End of the memory that a PC's firmware leaves below the video memory.
pub(super) const CONVENTIONAL_END: u64 = 0x9_fc00;
/// ACPI tables, where a PC's firmware lies.
pub(super) const ACPI: u64 = 0xe_0000;
pub(super) const ACPI_BYTES: u64 = 0x1_0000;
/// The page of the generation id, reserved: it has to be where no system looks for memory.
pub(super) const GENERATION: u64 = 0xf_0000;
/// Above the first MiB.
pub(super) const EXTENDED_MEMORY: u64 = 0x10_0000;

pub(super) const IOAPIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const TSS: usize = 0xfffb_d000;

/// The ranges of guest memory: one from 0 to at most 3 GiB, and from 4 GiB the rest, or what is added.
pub fn ram_ranges(shape: Shape) -> Vec<(GuestAddress, usize)> {
    let Shape { memory_bytes, added_bytes, .. } = shape;
    let low = memory_bytes.min(LOW_MEMORY_END);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    for (start, bytes) in [(HIGH_MEMORY, memory_bytes - low), (ADDED_MEMORY, added_bytes)] {
        if bytes > 0 {
            ranges.push((GuestAddress(start), bytes as usize));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_the_device_window_free() {
        let ranges = |memory_bytes, added_bytes| ram_ranges(Shape { memory_bytes, added_bytes, vcpus: 1 });
        assert_eq!(ranges(256 << 20, 0), [(GuestAddress(0), 256 << 20)]);
        assert_eq!(ranges(3 << 30, 0), [(GuestAddress(0), 3 << 30)]);
        let both = [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)];
        assert_eq!((ranges(5 << 30, 0), ranges(3 << 30, 2 << 30)), (both.into(), both.into()));
    }
}
