//! The state in which the first vCPU enters a kernel: 64-bit mode, the first 4 GiB mapped one to one.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::kernel::KernelError;
use super::layout::{BOOT_STACK, GDT, IDT, PAGE_DIRECTORY, PDPT, PML4, ZERO_PAGE};
use crate::kvm::refused;
use crate::memory::GuestRam;

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// Null, unused, code, data, task state: the selectors that the boot protocol asks for.
const DESCRIPTORS: [u64; 5] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];

pub(super) fn set_registers(vcpu: &VcpuFd, ram: &GuestRam, entry: GuestAddress) -> Result<(), KernelError> {
    write_page_tables(ram)?;
    ram.write_obj(DESCRIPTORS, GuestAddress(GDT))?;
    ram.write_obj(0u64, GuestAddress(IDT))?;

    let mut sregs = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = size_of_val(&DESCRIPTORS) as u16 - 1;
    sregs.idt.base = IDT;
    sregs.idt.limit = 7;
    sregs.cs = segment(2);
    let data = segment(3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(4);
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr3 = PML4;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(refused("KVM_SET_SREGS"))?;

    let regs = kvm_regs {
        // Bit 1 is always set.
        rflags: 2,
        rip: entry.0,
        rsp: BOOT_STACK,
        rbp: BOOT_STACK,
        rsi: ZERO_PAGE,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(refused("KVM_SET_REGS"))?;
    Ok(())
}

/// Maps the first GiB with 2 MiB pages: the kernel maps the rest itself.
fn write_page_tables(ram: &GuestRam) -> Result<(), KernelError> {
    ram.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    ram.write_obj(PAGE_DIRECTORY | PRESENT_WRITABLE, GuestAddress(PDPT))?;
    for n in 0..512 {
        ram.write_obj((n << 21) | PRESENT_WRITABLE | LARGE_PAGE, GuestAddress(PAGE_DIRECTORY + n * 8))?;
    }
    Ok(())
}

/// The segment register that loading a descriptor would give.
fn segment(index: u16) -> kvm_segment {
    let descriptor = DESCRIPTORS[usize::from(index)];
    let field = |shift: u32, width: u32| (descriptor >> shift) & ((1 << width) - 1);
    let limit = field(0, 16) | field(48, 4) << 16;
    let granular = field(55, 1) == 1;
    kvm_segment {
        base: field(16, 24) | field(56, 8) << 24,
        limit: (if granular { limit << 12 | 0xfff } else { limit }) as u32,
        selector: index * 8,
        type_: field(40, 4) as u8,
        s: field(44, 1) as u8,
        dpl: field(45, 2) as u8,
        present: field(47, 1) as u8,
        avl: field(52, 1) as u8,
        l: field(53, 1) as u8,
        db: field(54, 1) as u8,
        g: field(55, 1) as u8,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_what_their_descriptors_say() {
        let code = segment(2);
        assert_eq!((code.selector, code.l, code.db, code.type_, code.limit), (0x10, 1, 0, 0xb, u32::MAX));
        let data = segment(3);
        assert_eq!((data.selector, data.l, data.db, data.type_, data.s), (0x18, 0, 1, 3, 1));
        assert_eq!((segment(4).type_, segment(4).s), (0xb, 0));
    }
}
