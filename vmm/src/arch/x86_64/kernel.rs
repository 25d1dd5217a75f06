//! Loading Linux as its 64-bit boot protocol wants it (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io::Seek;

use kvm_ioctls::VcpuFd;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::{self, Elf, KernelLoader};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory};

use super::layout::{
    ACPI, ACPI_BYTES, CMDLINE, CMDLINE_BYTES, CONVENTIONAL_END, EXTENDED_MEMORY, GENERATION, HIGH_MEMORY,
    LOW_MEMORY_END, ZERO_PAGE,
};
use super::{acpi, bootstrap};
use crate::kvm::KvmError;
use crate::memory::{GuestRam, PAGE_BYTES};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const E820_ACPI: u32 = 3;

/// Ends every command line. A kernel that begins with one processor would turn its locks into plain instructions, and
/// back when the second one comes: that writes to most of its text, of which then no page is shared with other guests.
const ONE_VCPU: &str = " maxcpus=1 noreplace-smp";

/// A kernel could not be made ready to run.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel isn't a loadable ELF file.
    #[error("the kernel isn't an uncompressed 64-bit ELF `vmlinux` that fits guest memory")]
    Kernel(#[source] loader::Error),
    /// The initial ramdisk can't be read.
    #[error("the initial ramdisk can't be read")]
    Initrd(#[source] std::io::Error),
    /// Guest memory is too small.
    #[error("guest memory is too small: kernel and initial ramdisk ({initrd_bytes} bytes) don't fit")]
    TooLarge {
        /// Size of the initial ramdisk.
        initrd_bytes: u64,
    },
    /// The command line is too long or can't be passed.
    #[error("the kernel command line has {bytes} bytes or a zero in it; at most {} bytes can be passed", CMDLINE_BYTES - 1 - ONE_VCPU.len())]
    Cmdline {
        /// Its length.
        bytes: usize,
    },
    /// Guest memory could not be written.
    #[error("guest memory can't be written")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// KVM refused the initial registers.
    #[error("the boot processor's registers can't be set")]
    Registers(#[from] KvmError),
}

/// Loads a kernel and an initial ramdisk and points the first vCPU at it. The kernel leaves the other vCPUs alone until
/// it is asked to bring them up, so that what is captured needs none of them; it has room for `room` of them.
pub fn load_kernel(
    ram: &GuestRam,
    first: &VcpuFd,
    mut kernel: File,
    mut initrd: File,
    cmdline: &str,
    room: u8,
) -> Result<(), KernelError> {
    let loaded = Elf::load(ram, None, &mut kernel, Some(GuestAddress(EXTENDED_MEMORY))).map_err(KernelError::Kernel)?;
    let ramdisk = load_initrd(ram, &mut initrd, loaded.kernel_end)?;
    let cmdline = format!("{cmdline}{ONE_VCPU}");
    if cmdline.len() >= CMDLINE_BYTES || cmdline.contains('\0') {
        return Err(KernelError::Cmdline { bytes: cmdline.len() });
    }
    ram.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    ram.write_obj(0u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    ram.write_slice(&acpi::tables(room), GuestAddress(ACPI))?;
    ram.write_obj(boot_parameters(ram, ramdisk, cmdline.len()), GuestAddress(ZERO_PAGE))?;
    bootstrap::set_registers(first, ram, loaded.kernel_load)
}

/// Puts the ramdisk as high as it fits below 3 GiB and returns its address and length.
fn load_initrd(ram: &GuestRam, initrd: &mut File, kernel_end: u64) -> Result<(u32, u32), KernelError> {
    let initrd_bytes = initrd.metadata().map_err(KernelError::Initrd)?.len();
    let too_large = || KernelError::TooLarge { initrd_bytes };
    let end = low_memory_end(ram);
    let start = end.checked_sub(initrd_bytes).ok_or_else(too_large)? & !(PAGE_BYTES - 1);
    if start < kernel_end {
        return Err(too_large());
    }
    initrd.rewind().map_err(KernelError::Initrd)?;
    let length = usize::try_from(initrd_bytes).map_err(|_huge| too_large())?;
    ram.read_exact_volatile_from(GuestAddress(start), initrd, length)?;
    // Both are below 3 GiB.
    Ok((start as u32, initrd_bytes as u32))
}

fn low_memory_end(ram: &GuestRam) -> u64 {
    (ram.last_addr().raw_value() + 1).min(LOW_MEMORY_END)
}

fn boot_parameters(ram: &GuestRam, ramdisk: (u32, u32), cmdline_bytes: usize) -> boot_params {
    let mut params = boot_params { acpi_rsdp_addr: ACPI, ..Default::default() };
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = u32::from_le_bytes(*b"HdrS");
    params.hdr.version = 0x020f;
    // "Undefined" loader.
    params.hdr.type_of_loader = 0xff;
    params.hdr.loadflags = 1;
    params.hdr.kernel_alignment = 0x0100_0000;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = cmdline_bytes as u32;
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = ramdisk;

    let map = memory_map(ram);
    params.e820_entries = map.len() as u8;
    for (entry, (addr, size, type_)) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr, size, type_ };
    }
    params
}

/// Address, length and kind of each range, as a PC's firmware would list them.
fn memory_map(ram: &GuestRam) -> Vec<(u64, u64, u32)> {
    let mut map = vec![
        (0, CONVENTIONAL_END, E820_RAM),
        (ACPI, ACPI_BYTES, E820_ACPI),
        (GENERATION, PAGE_BYTES, E820_RESERVED),
        (EXTENDED_MEMORY, low_memory_end(ram) - EXTENDED_MEMORY, E820_RAM),
    ];
    let end = ram.last_addr().raw_value() + 1;
    if end > HIGH_MEMORY {
        map.push((HIGH_MEMORY, end - HIGH_MEMORY, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use vmm_api::Shape;

    use super::*;

    #[test]
    fn the_memory_map_reserves_the_generation_id_and_overlaps_nowhere() {
        for bytes in [64 << 20, 5 << 30] {
            let shape = Shape { memory_bytes: bytes, added_bytes: 0, vcpus: 1 };
            let map = memory_map(&crate::memory::reserve(&super::super::ram_ranges(shape)).unwrap());
            assert!(map.is_sorted_by(|before, after| before.0 + before.1 <= after.0), "{map:x?}");
            assert!(map.contains(&(GENERATION, PAGE_BYTES, E820_RESERVED)), "{map:x?}");
        }
    }
}
