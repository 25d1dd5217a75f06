//! ACPI tables for a machine without legacy hardware (ACPI 6.5 §4.1, hardware-reduced).

use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Method, Name, Notify, Package, Path, ResourceTemplate,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use devices::layout as slots;

use super::layout::{ACPI, GENERATION, IOAPIC, LOCAL_APIC};
use super::ports::{SLEEP_CONTROL, SLEEP_STATUS, SLEEP_TYPE_OFF};

const OEM: [u8; 6] = *b"SUPERM";
const OEM_TABLE: [u8; 8] = *b"MACHINE ";
/// The notification that a driver of the generation id waits for.
const GENERATION_CHANGED: u8 = 0x80;

/// The tables as they lie at [`ACPI`], the root pointer first.
pub(super) fn tables(room: u8) -> Vec<u8> {
    let mut blob = vec![0; Rsdp::len().next_multiple_of(16)];
    let dsdt = append(&mut blob, &dsdt());
    let fadt = append(&mut blob, &fadt(dsdt));
    let madt = append(&mut blob, &madt(room));
    let mut root = XSDT::new(OEM, OEM_TABLE, 1);
    root.add_entry(fadt);
    root.add_entry(madt);
    let root = append(&mut blob, &bytes_of(&root));
    let pointer = bytes_of(&Rsdp::new(OEM, root));
    blob[..pointer.len()].copy_from_slice(&pointer);
    blob
}

/// Appends a table, aligned, and returns its guest physical address.
fn append(blob: &mut Vec<u8>, table: &[u8]) -> u64 {
    blob.resize(blob.len().next_multiple_of(16), 0);
    let address = ACPI + blob.len() as u64;
    blob.extend_from_slice(table);
    address
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let port = |number: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(number));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, 1).dsdt_64(dsdt).flag(Flags::HwReducedAcpi).flag(Flags::Headless);
    // VGA, MSI as for PCI Express and CMOS clock are absent; so is an 8042 keyboard controller.
    fadt.iapc_boot_arch = (1 << 2 | 1 << 5).into();
    fadt.sleep_control_reg = port(SLEEP_CONTROL);
    fadt.sleep_status_reg = port(SLEEP_STATUS);
    bytes_of(&fadt.finalize())
}

/// Lists every processor that there is room for as if it were there: the kernel, which is told to begin with one, numbers them and
/// makes room for them, and brings up a further one when it is asked to.
fn madt(room: u8) -> Vec<u8> {
    let mut madt = MADT::new(OEM, OEM_TABLE, 1, LocalInterruptController::Address(LOCAL_APIC));
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    for id in 0..room {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    bytes_of(&madt)
}

fn dsdt() -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, 1);
    let mut code = Vec::new();
    for slot in 0..slots::SLOTS {
        virtio_slot(slot, &mut code);
    }
    serial_port(&mut code);
    generation(&mut code);
    events(&mut code);
    Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_OFF])).to_aml_bytes(&mut code);
    dsdt.append_slice(&code);
    dsdt.as_slice().to_vec()
}

/// A virtio-mmio device, as Linux's driver recognises it.
fn virtio_slot(slot: usize, code: &mut Vec<u8>) {
    let base = slots::slot_address(slot) as u32;
    let window = Memory32Fixed::new(true, base, slots::SLOT_BYTES as u32);
    let line = Interrupt::new(true, true, false, false, slots::slot_gsi(slot));
    let name = format!("_SB_.V{slot:03}");
    Device::new(
        Path::new(&name),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &(slot as u32)),
            &Name::new("_CCA".into(), &aml::ONE),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&window, &line])),
        ],
    )
    .to_aml_bytes(code);
}

/// The console, a 16550.
fn serial_port(code: &mut Vec<u8>) {
    let ports = IO::new(slots::CONSOLE_PORT, slots::CONSOLE_PORT, 1, slots::CONSOLE_PORTS as u8);
    let line = Interrupt::new(true, true, false, false, slots::CONSOLE_GSI);
    Device::new(
        Path::new("_SB_.COM1"),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &line])),
        ],
    )
    .to_aml_bytes(code);
}

/// Where the generation id is (Microsoft, "Virtual Machine Generation ID"): the driver knows the device by either
/// name, and reads the two halves of the address.
fn generation(code: &mut Vec<u8>) {
    let (low, high) = (GENERATION as u32, (GENERATION >> 32) as u32);
    Device::new(
        Path::new("_SB_.VGEN"),
        vec![
            &Name::new("_HID".into(), &"VMGENCTR"),
            &Name::new("_CID".into(), &"VM_Gen_Counter"),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
        ],
    )
    .to_aml_bytes(code);
}

/// The Generic Event Device (ACPI 6.5 §5.6.9): its one interrupt says that the generation id has changed. A
/// hardware-reduced machine has no other way to notify a driver.
fn events(code: &mut Vec<u8>) {
    let line = Interrupt::new(true, true, false, false, slots::GENERATION_GSI);
    let device = Path::new("\\_SB_.VGEN");
    let notify = Notify::new(&device, &GENERATION_CHANGED);
    Device::new(
        Path::new("_SB_.GED0"),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &aml::ZERO),
            &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&line])),
            &Method::new("_EVT".into(), 1, true, vec![&notify]),
        ],
    )
    .to_aml_bytes(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    /// The table at a guest physical address, by the length it states.
    fn table(blob: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI) as usize;
        let length = u32::from_le_bytes(blob[start + 4..start + 8].try_into().unwrap()) as usize;
        &blob[start..start + length]
    }

    #[test]
    fn every_checksum_is_right_and_every_pointer_leads_to_its_table() {
        let blob = tables(4);
        assert_eq!(&blob[..8], b"RSD PTR ");
        assert_eq!((sum(&blob[..20]), sum(&blob[..36])), (0, 0));
        let root = table(&blob, u64_at(&blob, 24));
        assert_eq!((&root[..4], sum(root), root.len()), (&b"XSDT"[..], 0, 36 + 16));
        let fadt = table(&blob, u64_at(root, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let dsdt = table(&blob, u64_at(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let madt = table(&blob, u64_at(root, 44));
        assert_eq!((&madt[..4], sum(madt), madt.len()), (&b"APIC"[..], 0, 44 + 12 + 4 * 8));
    }

    #[test]
    fn the_tables_fit_their_window_with_the_most_vcpus() {
        assert!(tables(vmm_api::MAX_VCPUS).len() as u64 <= super::super::layout::ACPI_BYTES);
    }

    fn contains(code: &[u8], part: &[u8]) -> bool {
        code.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn the_generation_id_is_named_placed_and_notified_of() {
        let dsdt = dsdt();
        assert!(contains(&dsdt, b"\x08_HID\x0dVMGENCTR\0") && contains(&dsdt, b"\x08_CID\x0dVM_Gen_Counter\0"));
        // A package of two integers: the low half in four bytes, and zero.
        let address = [b"\x08ADDR\x12\x08\x02\x0c", &(GENERATION as u32).to_le_bytes()[..], b"\0"].concat();
        assert!(contains(&dsdt, &address));
        // Consumed, edge triggered, active high, one of its own.
        let line = [b"\x89\x06\0\x03\x01", &slots::GENERATION_GSI.to_le_bytes()[..]].concat();
        assert!(contains(&dsdt, &line));
        assert!(contains(&dsdt, b"_EVT\x09\x86\\\x2e_SB_VGEN\x0a\x80"));
    }

    #[test]
    fn no_two_devices_have_an_interrupt_line_in_common() {
        let mut lines: Vec<_> = (0..slots::SLOTS).map(slots::slot_gsi).collect();
        lines.extend([slots::CONSOLE_GSI, slots::GENERATION_GSI]);
        lines.sort_unstable();
        assert!(lines.is_sorted_by(|before, after| before < after), "{lines:?}");
        // So many has an I/O APIC.
        assert!(lines.iter().all(|line| *line < 24));
    }
}
