//! Where the devices sit in the guest's physical address space and on its interrupt lines.
//!
//! A bake holds a guest that has already found its devices here, so every change to this file, to a device's
//! features or to its configuration space is a new [`VERSION`].

/// Version of the layout; part of the machine key.
pub const VERSION: u32 = 6;

/// Guest physical address of the first virtio-mmio slot.
pub const MMIO_BASE: u64 = 0xd000_0000;
/// Bytes that each slot occupies.
pub const SLOT_BYTES: u64 = 0x1000;
/// Number of slots, all of them present in every VM.
pub const SLOTS: usize = 9;
/// Bytes of the whole window.
pub const MMIO_BYTES: u64 = SLOT_BYTES * SLOTS as u64;
/// Interrupt line of the first slot; the following slots use the following lines. Edge triggered.
pub const FIRST_GSI: u32 = 5;

/// Slot of the read-only layer disk.
pub const LAYERS_SLOT: usize = 0;
/// Slot of the writable upper disk.
pub const UPPER_SLOT: usize = 1;
/// Slot of the socket device.
pub const VSOCK_SLOT: usize = 2;
/// Slot of the entropy source.
pub const RNG_SLOT: usize = 3;
/// Number of network cards: so many interfaces a guest can have.
pub const CARDS: usize = 4;
/// Slots of the network cards.
pub const NET_SLOTS: [usize; CARDS] = [4, 5, 6, 7];
/// Slot of the file system device.
pub const FILES_SLOT: usize = 8;

/// Serial number by which the guest recognises the layer disk.
pub const LAYERS_SERIAL: &str = "layers";
/// Serial number by which the guest recognises the upper disk.
pub const UPPER_SERIAL: &str = "upper";
/// Name by which the guest mounts the host's files.
pub const FILES_TAG: &str = "volumes";

/// The user as whom the guest's agent repeats what was done to files on the host, for the guest's kernel to tell programs
/// that watch them. None of its requests changes a file. Its group says what a name is to be found as: one of the three
/// that follow, or else what it is.
pub const NOTICES_UID: u32 = 0xffff_fff0;
/// There is no such file.
pub const NOTICES_ABSENT: u32 = 1;
/// It is a regular file.
pub const NOTICES_FILE: u32 = 2;
/// It is a directory.
pub const NOTICES_DIRECTORY: u32 = 3;

/// The guest's context id on its virtual socket.
pub const GUEST_CID: u64 = 3;
/// The host's context id (virtio 1.3 §5.10.4).
pub const HOST_CID: u64 = 2;
/// Port of the host that the guest tries to connect to when its agent listens ("knock").
pub const READY_PORT: u32 = 1024;

/// First I/O port of the serial console.
pub const CONSOLE_PORT: u16 = 0x3f8;
/// Number of I/O ports of the serial console.
pub const CONSOLE_PORTS: u16 = 8;
/// Interrupt line of the serial console. Edge triggered.
pub const CONSOLE_GSI: u32 = 4;

/// Interrupt line that tells the guest of a new generation id: the last of the I/O APIC, so that slots may come before
/// it. Edge triggered.
pub const GENERATION_GSI: u32 = 23;

/// Guest physical address of a slot.
#[must_use]
pub const fn slot_address(slot: usize) -> u64 {
    MMIO_BASE + SLOT_BYTES * slot as u64
}

/// Interrupt line of a slot.
#[must_use]
pub const fn slot_gsi(slot: usize) -> u32 {
    FIRST_GSI + slot as u32
}
