use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use virtio_bindings::virtio_mmio as reg;

use super::*;
use crate::driver::{
    DriverQueue, Piece, RAM_BYTES, bring_up, clone_ram, get, interrupt, kick, put, ram, read_register, readable,
    wait_complete, wait_interrupt, writable,
};
use crate::layout::{LAYERS_SLOT, UPPER_SLOT, slot_address};
use crate::{Backings, DeviceSet, Window};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// What the status byte holds before a request.
const UNTOUCHED: u8 = 0xaa;

const HEADER: u64 = 0x10_0000;
const STATUS: u64 = 0x10_0100;
const DATA: u64 = 0x20_0000;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn backing(bytes: &[u8]) -> (File, u64) {
    (file(bytes), bytes.len() as u64)
}

/// A machine with both disks up and running.
struct Machine {
    ram: GuestRam,
    set: DeviceSet,
    queues: [DriverQueue; 2],
}

impl Machine {
    fn new(backings: Backings) -> Self {
        let ram = ram();
        let set = DeviceSet::new(ram.clone(), &Window::default(), backings).unwrap();
        let queues = [0x1000, 0x8000].map(|base| DriverQueue::new(&ram, base, 256));
        for (slot, queue) in queues.iter().enumerate() {
            bring_up(&set, slot, &[queue]);
        }
        set.start(|| (), || ()).unwrap();
        Self { ram, set, queues }
    }

    /// Makes a request whose data is in `data` and returns its status and the bytes written.
    fn request(&mut self, slot: usize, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        put(&self.ram, HEADER, &header(kind, sector));
        put(&self.ram, STATUS, &[UNTOUCHED]);
        let pieces = [&[readable(HEADER, 16)], data, &[writable(STATUS, 1)]].concat();
        let written = self.offer(slot, &pieces);
        (get(&self.ram, STATUS, 1)[0], written)
    }

    fn offer(&mut self, slot: usize, pieces: &[Piece]) -> u32 {
        let (head, wanted) = self.queues[slot].offer(pieces);
        if wanted {
            kick(&self.set, slot, 0);
        }
        let (completed, written) = wait_complete(&self.set, slot, &mut self.queues[slot]);
        assert_eq!(completed, head);
        written
    }

    fn capacity(&self, slot: usize) -> u64 {
        let mut sectors = [0; 8];
        self.set.mmio_read(slot_address(slot) + 0x100, &mut sectors);
        u64::from_le_bytes(sectors)
    }
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}

#[test]
fn layers_lie_end_to_end_with_zeros_up_to_the_next_page() {
    let layers = vec![backing(&[1; 512]), backing(&[2; 8192]), backing(&[3; 4608])];
    let mut machine = Machine::new(Backings { layers, upper: None, files: None });
    assert_eq!(machine.capacity(LAYERS_SLOT), (4096 + 8192 + 8192) / 512);
    let mut expected = vec![1; 512];
    expected.resize(4096, 0);
    expected.resize(4096 + 8192, 2);
    expected.resize(4096 + 8192 + 4608, 3);
    expected.resize(4096 + 8192 + 8192, 0);
    put(&machine.ram, DATA, &vec![9; expected.len()]);
    // Pieces that fit neither extents nor sectors, one of them across the seam of the two regions of RAM.
    let seam = RAM_BYTES / 2;
    let pieces = [writable(DATA, 700), writable(seam - 5000, 10_000), writable(DATA + 700, 20_480 - 10_700)];
    assert_eq!(machine.request(LAYERS_SLOT, IN, 0, &pieces), (OK, 20_481));
    let read =
        [get(&machine.ram, DATA, 700), get(&machine.ram, seam - 5000, 10_000), get(&machine.ram, DATA + 700, 9780)];
    assert!(read.concat() == expected);
    assert_eq!(machine.request(LAYERS_SLOT, IN, 39, &[writable(DATA, 512)]), (OK, 513));
    assert_eq!(machine.request(LAYERS_SLOT, IN, 40, &[writable(DATA, 512)]), (IOERR, 1));
    assert_eq!(machine.request(LAYERS_SLOT, IN, u64::MAX, &[writable(DATA, 512)]), (IOERR, 1));
    assert_eq!(machine.request(LAYERS_SLOT, IN, u64::MAX / 512, &[writable(DATA, 1024)]), (IOERR, 1));
    assert_eq!(machine.request(LAYERS_SLOT, IN, 0, &[writable(DATA, 100)]), (IOERR, 1));
}

#[test]
fn the_layer_disk_can_not_be_written() {
    let (layer, bytes) = backing(&[7; 4096]);
    let mut machine =
        Machine::new(Backings { layers: vec![(layer.try_clone().unwrap(), bytes)], upper: None, files: None });
    assert_eq!(machine.request(LAYERS_SLOT, OUT, 0, &[readable(DATA, 512)]), (IOERR, 1));
    put(&machine.ram, DATA, &range(0, 8, 0));
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(machine.request(LAYERS_SLOT, kind, 0, &[readable(DATA, 16)]), (IOERR, 1));
    }
    assert_eq!(machine.request(LAYERS_SLOT, FLUSH, 0, &[]), (OK, 1));
    let mut content = [0; 4096];
    layer.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [7; 4096]);
    crate::driver::write_register(&machine.set, LAYERS_SLOT, reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    let features = u64::from(read_register(&machine.set, LAYERS_SLOT, reg::VIRTIO_MMIO_DEVICE_FEATURES));
    assert_ne!(features & 1 << VIRTIO_BLK_F_RO, 0);
}

#[test]
fn the_upper_disk_keeps_what_is_written() {
    let image = file(&[5; 1 << 20]);
    let upper = Some((image.try_clone().unwrap(), 1 << 20));
    let mut machine = Machine::new(Backings { layers: vec![], upper, files: None });
    put(&machine.ram, DATA, &[6; 1024]);
    assert_eq!(machine.request(UPPER_SLOT, OUT, 3, &[readable(DATA, 100), readable(DATA, 924)]), (OK, 1));
    assert_eq!(machine.request(UPPER_SLOT, FLUSH, 0, &[]), (OK, 1));
    let mut content = [0; 2048];
    image.read_exact_at(&mut content, 1024).unwrap();
    assert!(content[..512] == [5; 512] && content[512..1536] == [6; 1024] && content[1536..] == [5; 512]);
    // The last sector is the last.
    assert_eq!(machine.request(UPPER_SLOT, OUT, 2047, &[readable(DATA, 512)]), (OK, 1));
    assert_eq!(machine.request(UPPER_SLOT, OUT, 2047, &[readable(DATA, 1024)]), (IOERR, 1));
    assert_eq!(image.metadata().unwrap().len(), 1 << 20);
}

#[test]
fn files_come_and_go_while_a_disk_is_used() {
    let (first, second) = (file(&[5; 5120]), file(&[7; 4096]));
    let upper = |file: &File, bytes| Some((file.try_clone().unwrap(), bytes));
    let mut machine = Machine::new(Backings { layers: vec![], upper: upper(&first, 5120), files: None });
    assert_eq!(machine.capacity(LAYERS_SLOT), 1);
    let layers = vec![backing(&[1; 512]), backing(&[2; 4096])];
    machine.set.attach(Backings { layers, upper: upper(&second, 4096), files: None }, 8192).unwrap();
    for (slot, sectors) in [(LAYERS_SLOT, 16), (UPPER_SLOT, 24)] {
        assert_eq!(wait_interrupt(&machine.set, slot) & 2, 2, "the new capacity is told");
        assert_eq!(machine.capacity(slot), sectors);
    }
    assert_eq!(machine.request(LAYERS_SLOT, IN, 8, &[writable(DATA, 4096)]), (OK, 4097));
    assert_eq!(get(&machine.ram, DATA, 4096), [2; 4096]);
    put(&machine.ram, DATA, &[6; 512]);
    assert_eq!(machine.request(UPPER_SLOT, OUT, 16, &[readable(DATA, 512)]), (OK, 1));
    assert_eq!(machine.request(UPPER_SLOT, FLUSH, 0, &[]), (OK, 1));
    let mut content = [0; 1024];
    second.read_exact_at(&mut content, 0).unwrap();
    assert!(content[..512] == [6; 512] && content[512..] == [7; 512]);
    // Between two files there is nothing.
    assert_eq!(machine.request(UPPER_SLOT, OUT, 10, &[readable(DATA, 512)]), (IOERR, 1));
    assert_eq!(machine.request(UPPER_SLOT, OUT, 9, &[readable(DATA, 1024)]), (IOERR, 1));
    put(&machine.ram, DATA, &range(8, 16, 0));
    assert_eq!(machine.request(UPPER_SLOT, WRITE_ZEROES, 0, &[readable(DATA, 16)]), (IOERR, 1));
    put(&machine.ram, DATA, &range(16, 8, 0));
    assert_eq!(machine.request(UPPER_SLOT, WRITE_ZEROES, 0, &[readable(DATA, 16)]), (OK, 1));
    second.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [0; 1024]);

    // The place of one that is gone reads as zeros, takes nothing, and can be had by another.
    machine.set.detach(0).unwrap();
    assert_eq!(machine.capacity(UPPER_SLOT), 24);
    assert_eq!(machine.request(UPPER_SLOT, IN, 0, &[writable(DATA, 512)]), (OK, 513));
    assert_eq!(get(&machine.ram, DATA, 512), [0; 512]);
    assert_eq!(machine.request(UPPER_SLOT, OUT, 0, &[readable(DATA, 512)]), (IOERR, 1));
    machine.set.attach(Backings { layers: vec![], upper: upper(&first, 5120), files: None }, 0).unwrap();
    assert_eq!(machine.request(UPPER_SLOT, IN, 0, &[writable(DATA, 512)]), (OK, 513));
    assert_eq!(get(&machine.ram, DATA, 512), [5; 512]);
}

#[test]
fn a_file_is_put_where_none_is() {
    let backing = |bytes| Backings { layers: vec![], upper: Some((file(&[5; 8192]), bytes)), files: None };
    let machine = Machine::new(backing(5120));
    machine.set.attach(backing(4096), 16384).unwrap();
    for (start, bytes) in [(0, 512), (4096, 512), (16384, 512), (8192 + 512, 512), (8192, 16384), (u64::MAX - 511, 512)]
    {
        assert!(machine.set.attach(backing(bytes), start).is_err(), "{start} {bytes}");
    }
    for start in [4096, 8192, 16384 + 4096, u64::MAX] {
        assert!(matches!(machine.set.detach(start), Err(DeviceError::Place { .. })), "{start}");
    }
    machine.set.attach(backing(8192), 8192).unwrap();
    for _ in 0..2 {
        let broken = Backings { layers: vec![(file(&[1]), 512)], ..backing(512) };
        assert!(matches!(machine.set.attach(broken, 65536), Err(DeviceError::Backing { disk: "layers", .. })));
    }
    assert_eq!(machine.capacity(LAYERS_SLOT), 1);
}

#[test]
fn a_device_that_is_read_only_takes_nothing() {
    let (image, device) = (file(&[5; 4096]), file(&[7; 8192]));
    let upper = Some((image, 4096));
    let mut machine = Machine::new(Backings { layers: vec![], upper, files: None });
    machine.set.attach_device(4096, device.try_clone().unwrap(), 8192, false).unwrap();
    assert_eq!(wait_interrupt(&machine.set, UPPER_SLOT) & 2, 2, "the new capacity is told");
    assert_eq!(machine.capacity(UPPER_SLOT), 24);
    assert_eq!(machine.request(UPPER_SLOT, IN, 8, &[writable(DATA, 512)]), (OK, 513));
    assert_eq!(get(&machine.ram, DATA, 512), [7; 512]);
    assert_eq!(machine.request(UPPER_SLOT, OUT, 8, &[readable(DATA, 512)]), (IOERR, 1));
    put(&machine.ram, DATA, &range(8, 8, 0));
    for kind in [DISCARD, WRITE_ZEROES] {
        assert_eq!(machine.request(UPPER_SLOT, kind, 0, &[readable(DATA, 16)]), (IOERR, 1));
    }
    assert_eq!(machine.request(UPPER_SLOT, OUT, 0, &[readable(DATA, 512)]), (OK, 1), "its neighbour does");
    assert_eq!(machine.request(UPPER_SLOT, FLUSH, 0, &[]), (OK, 1));
    let mut content = [0; 8192];
    device.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, [7; 8192]);
    machine.set.detach(4096).unwrap();
    machine.set.attach_device(4096, device.try_clone().unwrap(), 8192, true).unwrap();
    assert_eq!(machine.request(UPPER_SLOT, OUT, 8, &[readable(DATA, 512)]), (OK, 1));
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros_and_take_no_space() {
    let image = file(&[5; 1 << 20]);
    let before = image.metadata().unwrap().blocks();
    let upper = Some((image.try_clone().unwrap(), 1 << 20));
    let mut machine = Machine::new(Backings { layers: vec![], upper, files: None });
    put(&machine.ram, DATA, &[range(8, 800, 0), range(1000, 8, 0)].concat());
    assert_eq!(machine.request(UPPER_SLOT, DISCARD, 0, &[readable(DATA, 32)]), (OK, 1));
    put(&machine.ram, DATA, &range(1024, 1000, 1));
    assert_eq!(machine.request(UPPER_SLOT, WRITE_ZEROES, 0, &[readable(DATA, 16)]), (OK, 1));
    let mut content = vec![0; 1 << 20];
    image.read_exact_at(&mut content, 0).unwrap();
    for (sector, data) in content.chunks(512).enumerate() {
        let zero = (8..808).contains(&sector) || (1000..1008).contains(&sector) || (1024..2024).contains(&sector);
        assert!(data.iter().all(|&byte| byte == if zero { 0 } else { 5 }), "sector {sector}");
    }
    assert!(image.metadata().unwrap().blocks() < before / 2);
    for (ranges, status) in [
        (range(2048, 1, 0).to_vec(), IOERR),
        (range(u64::MAX, u32::MAX, 0).to_vec(), IOERR),
        (range(0, 8, 1).to_vec(), UNSUPPORTED),
        (vec![0; 17], IOERR),
        (vec![], IOERR),
        ([range(0, 1, 0); 17].concat(), IOERR),
    ] {
        put(&machine.ram, DATA, &ranges);
        let data = [readable(DATA, ranges.len() as u32)];
        let data = if ranges.is_empty() { &[] } else { &data[..] };
        assert_eq!(machine.request(UPPER_SLOT, DISCARD, 0, data), (status, 1), "{ranges:?}");
    }
}

#[test]
fn a_write_that_the_host_refuses_is_an_error_of_the_disk() {
    let sealed = memfd_create("sealed", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&sealed, 1 << 20).unwrap();
    fcntl_add_seals(&sealed, SealFlags::WRITE).unwrap();
    let mut machine = Machine::new(Backings { layers: vec![], upper: Some((sealed.into(), 1 << 20)), files: None });
    assert_eq!(machine.request(UPPER_SLOT, OUT, 0, &[readable(DATA, 512)]), (IOERR, 1));
    assert_eq!(machine.request(UPPER_SLOT, IN, 0, &[writable(DATA, 512)]), (OK, 513));
}

#[test]
fn a_file_that_shrinks_is_an_error_of_the_disk() {
    let layer = file(&[1; 8192]);
    let mut machine =
        Machine::new(Backings { layers: vec![(layer.try_clone().unwrap(), 8192)], upper: None, files: None });
    layer.set_len(4096).unwrap();
    assert_eq!(machine.request(LAYERS_SLOT, IN, 0, &[writable(DATA, 8192)]), (IOERR, 1));
    assert_eq!(machine.request(LAYERS_SLOT, IN, 0, &[writable(DATA, 4096)]), (OK, 4097));
}

#[test]
fn files_that_do_not_hold_what_was_stated_are_refused() {
    for (bytes, stated) in [(512, 1024u64), (512, 500), (512, 0)] {
        let layers = vec![backing(&[0; 512]), (file(&vec![0; bytes]), stated)];
        let error =
            DeviceSet::new(ram(), &Window::default(), Backings { layers, upper: None, files: None }).unwrap_err();
        assert!(matches!(error, DeviceError::Backing { disk: "layers", index: 1, .. }), "{error}");
    }
}

#[test]
fn disks_are_known_by_their_serial_numbers() {
    let mut machine = Machine::new(Backings::default());
    for (slot, serial) in [(LAYERS_SLOT, "layers"), (UPPER_SLOT, "upper")] {
        assert_eq!(machine.request(slot, GET_ID, 0, &[writable(DATA, 20)]), (OK, 21));
        let id = get(&machine.ram, DATA, 20);
        assert_eq!(id.split(|&byte| byte == 0).next().unwrap(), serial.as_bytes());
        assert_eq!(machine.request(slot, 77, 0, &[]), (UNSUPPORTED, 1));
    }
}

#[test]
fn a_disk_with_nothing_behind_it_is_a_sector_of_zeros() {
    let mut machine = Machine::new(Backings::default());
    for slot in [LAYERS_SLOT, UPPER_SLOT] {
        assert_eq!(machine.capacity(slot), 1);
        put(&machine.ram, DATA, &[9; 512]);
        assert_eq!(machine.request(slot, IN, 0, &[writable(DATA, 512)]), (OK, 513));
        assert_eq!(get(&machine.ram, DATA, 512), [0; 512]);
        assert_eq!(machine.request(slot, OUT, 0, &[readable(DATA, 512)]), (IOERR, 1));
        assert_eq!(machine.request(slot, FLUSH, 0, &[]), (OK, 1));
    }
}

#[test]
fn requests_may_be_cut_anywhere_and_broken_ones_are_given_back() {
    let mut machine = Machine::new(Backings { layers: vec![backing(&[8; 4096])], upper: None, files: None });
    put(&machine.ram, HEADER, &header(IN, 1));
    // Header in three pieces, status in the same piece as the data.
    let cut = [readable(HEADER, 1), readable(HEADER + 1, 10), readable(HEADER + 11, 5), writable(DATA, 513)];
    assert_eq!(machine.offer(LAYERS_SLOT, &cut), 513);
    assert_eq!(get(&machine.ram, DATA, 513), [vec![8; 512], vec![0]].concat());
    for (pieces, written) in [
        (vec![readable(HEADER, 16)], 0),
        (vec![readable(HEADER, 8), writable(STATUS, 1)], 1),
        (vec![writable(STATUS, 1), readable(HEADER, 16)], 0),
        (vec![readable(HEADER, 16), writable(RAM_BYTES - 1, 513)], 0),
        (vec![writable(STATUS, 1)], 1),
    ] {
        assert_eq!(machine.offer(LAYERS_SLOT, &pieces), written, "{pieces:?}");
    }
}

#[test]
fn a_burst_of_requests_costs_one_interrupt() {
    let mut machine = Machine::new(Backings { layers: vec![backing(&[8; 65536])], upper: None, files: None });
    machine.request(LAYERS_SLOT, IN, 0, &[writable(DATA, 512)]);
    machine.set.quiesce().unwrap();
    let _ = interrupt(&machine.set, LAYERS_SLOT).read();
    let queue = &mut machine.queues[LAYERS_SLOT];
    assert!(!queue.arm());
    put(&machine.ram, HEADER, &header(IN, 0));
    for _ in 0..20 {
        queue.offer(&[readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)]);
    }
    reset_interrupt(&machine.set);
    machine.set.start(|| (), || ()).unwrap();
    wait_interrupt(&machine.set, LAYERS_SLOT);
    let queue = &mut machine.queues[LAYERS_SLOT];
    assert_eq!(std::iter::from_fn(|| queue.complete()).count(), 20);
    assert!(interrupt(&machine.set, LAYERS_SLOT).read().is_err(), "a second interrupt");
}

/// Acknowledges what the driver has been told so far.
fn reset_interrupt(set: &DeviceSet) {
    crate::driver::write_register(set, LAYERS_SLOT, reg::VIRTIO_MMIO_INTERRUPT_ACK, 3);
}

#[test]
fn a_restored_machine_finds_its_files_and_hears_of_their_size() {
    let mut machine = Machine::new(Backings::default());
    machine.request(LAYERS_SLOT, IN, 0, &[writable(DATA, 512)]);
    machine.set.quiesce().unwrap();
    reset_interrupt(&machine.set);
    let bytes = postcard::to_stdvec(&machine.set.save().unwrap()).unwrap();
    let state: crate::DeviceSetState = postcard::from_bytes(&bytes).unwrap();

    let same =
        DeviceSet::restore(state.clone(), clone_ram(&machine.ram), &Window::default(), Backings::default()).unwrap();
    assert_eq!(same.save().unwrap(), state, "nothing changed, nothing is raised");

    let ram = clone_ram(&machine.ram);
    let backings = Backings { layers: vec![backing(&[4; 8192])], upper: Some(backing(&[0; 1 << 20])), files: None };
    let set = DeviceSet::restore(state, ram.clone(), &Window::default(), backings).unwrap();
    let queues = machine.queues.map(|queue| queue.moved_to(&ram));
    for slot in [LAYERS_SLOT, UPPER_SLOT] {
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_CONFIG_GENERATION), 1);
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_STATUS), 15);
    }
    set.start(|| (), || ()).unwrap();
    let mut restored = Machine { ram, set, queues };
    assert_eq!((restored.capacity(LAYERS_SLOT), restored.capacity(UPPER_SLOT)), (16, 2048));
    for slot in [LAYERS_SLOT, UPPER_SLOT] {
        assert_ne!(wait_interrupt(&restored.set, slot) & 2, 0);
    }
    assert_eq!(restored.request(LAYERS_SLOT, IN, 9, &[writable(DATA, 512)]), (OK, 513));
    assert_eq!(get(&restored.ram, DATA, 512), [4; 512]);
    assert_eq!(restored.request(UPPER_SLOT, OUT, 9, &[readable(DATA, 512)]), (OK, 1));
}

/// Requests that a worker had not looked at, and a completion that the driver had not heard of, when the machine was
/// captured: none is lost, on neither disk.
#[test]
fn what_was_under_way_at_a_capture_is_answered_after_the_restore() {
    let (layer, image) = (file(&[4; 8192]), file(&[0; 8192]));
    let backings = || Backings {
        layers: vec![(layer.try_clone().unwrap(), 8192)],
        upper: Some((image.try_clone().unwrap(), 8192)),
        files: None,
    };
    let mut machine = Machine::new(backings());
    // Completed, and the interrupt is left to the controller that carries it.
    put(&machine.ram, HEADER, &header(IN, 0));
    let unheard = [readable(HEADER, 16), writable(DATA, 512), writable(STATUS, 1)];
    machine.queues[LAYERS_SLOT].offer(&unheard);
    kick(&machine.set, LAYERS_SLOT, 0);
    crate::driver::wait_readable(interrupt(&machine.set, LAYERS_SLOT).as_raw_fd());
    machine.set.quiesce().unwrap();
    // Offered and not looked at.
    put(&machine.ram, HEADER + 32, &header(IN, 15));
    put(&machine.ram, HEADER + 64, &header(OUT, 7));
    put(&machine.ram, DATA + 4096, &[6; 512]);
    let read = [readable(HEADER + 32, 16), writable(DATA + 1024, 512), writable(STATUS + 1, 1)];
    let write = [readable(HEADER + 64, 16), readable(DATA + 4096, 512), writable(STATUS + 2, 1)];
    let (read, _) = machine.queues[LAYERS_SLOT].offer(&read);
    let (write, _) = machine.queues[UPPER_SLOT].offer(&write);
    let bytes = postcard::to_stdvec(&machine.set.save().unwrap()).unwrap();

    let ram = clone_ram(&machine.ram);
    let set =
        DeviceSet::restore(postcard::from_bytes(&bytes).unwrap(), ram.clone(), &Window::default(), backings()).unwrap();
    let [mut layers, mut upper] = machine.queues.map(|queue| queue.moved_to(&ram));
    set.start(|| (), || ()).unwrap();
    assert_eq!(layers.complete().map(|(_, written)| written), Some(513));
    assert_eq!(wait_complete(&set, LAYERS_SLOT, &mut layers), (read, 513));
    assert_eq!(wait_complete(&set, UPPER_SLOT, &mut upper), (write, 1));
    assert_eq!(get(&ram, STATUS, 3), [OK; 3]);
    assert_eq!(get(&ram, DATA + 1024, 512), [4; 512]);
    let mut written = [0; 512];
    image.read_exact_at(&mut written, 7 * 512).unwrap();
    assert_eq!(written, [6; 512]);
    assert!(set.save().is_err(), "the restored workers run");
}

/// A driver keeps both disks busy from two threads, sleeping until interrupted: a lost notification or interrupt
/// shows as a wait that never ends.
#[test]
fn workers_lose_nothing_under_load() {
    const SECTORS: u64 = 64;
    let content: Vec<u8> = (0..SECTORS).flat_map(|sector| [sector as u8; 512]).collect();
    let Machine { ram, set, queues } =
        Machine::new(Backings { layers: vec![backing(&content)], upper: Some(backing(&content)), files: None });
    std::thread::scope(|scope| {
        for (slot, mut queue) in queues.into_iter().enumerate() {
            let (ram, set) = (&ram, &set);
            scope.spawn(move || hammer(ram, set, slot, &mut queue));
        }
    });
    set.quiesce().unwrap();
    set.save().unwrap();
}

fn hammer(ram: &GuestRam, set: &DeviceSet, slot: usize, queue: &mut DriverQueue) {
    const REQUESTS: u64 = 20_000;
    let base = 0x10_0000 + 0x20_0000 * slot as u64;
    let place = |head: u16| base + 0x1000 * u64::from(head);
    let (mut offered, mut completed) = (0u64, 0u64);
    while completed < REQUESTS {
        let burst = 1 + offered % 17;
        for _ in 0..burst {
            if offered >= REQUESTS || !queue.has_room(3) {
                break;
            }
            // The head is the next free descriptor; its place in memory is derived from it.
            let head = queue.next_head();
            put(ram, place(head), &header(IN, offered % 64));
            let data = place(head) + 0x200;
            let pieces = [readable(place(head), 16), writable(data, 512), writable(place(head) + 0x20, 1)];
            let (_, wanted) = queue.offer(&pieces);
            if wanted {
                kick(set, slot, 0);
            }
            offered += 1;
        }
        let (head, written) = wait_complete(set, slot, queue);
        assert_eq!(written, 513);
        let sector = get(ram, place(head) + 8, 1)[0];
        assert_eq!(get(ram, place(head) + 0x200, 512), [sector; 512]);
        completed += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_request_is_answered(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in prop_oneof![0u64..40, any::<u64>()],
        ranges in prop::collection::vec((any::<u64>(), any::<u32>(), 0u32..3), 0..4),
        pieces in prop::collection::vec((0u64..RAM_BYTES + 600, 0u32..2000, any::<bool>()), 0..6),
    ) {
        let ram = ram();
        let mut queue = DriverQueue::new(&ram, 0x1000, 256);
        let disk = Disk::new("upper", true, vec![(file(&[1; 8192]), 8192)]).unwrap();
        let poll = Poll::new().unwrap();
        let block = Block::new(Role::Upper, disk, ram.clone(), Window::default().page(UPPER_SLOT), &poll).unwrap();
        put(&ram, HEADER, &header(kind, sector));
        let payload: Vec<u8> = ranges.iter().flat_map(|&(at, sectors, flags)| range(at, sectors, flags)).collect();
        put(&ram, HEADER + 16, &payload);
        let mut chain = vec![readable(HEADER, 16 + payload.len() as u32)];
        chain.extend(pieces.iter().map(|&(address, bytes, writable)| Piece { address, bytes, writable }));
        chain.push(writable(STATUS, 1));
        queue.offer(&chain);
        let mut rings = block.rings.lock();
        rings.active = true;
        let inner = rings.rings[0].queue_mut();
        virtio_queue::QueueT::set_desc_table_address(inner, Some(queue.base as u32), None);
        virtio_queue::QueueT::set_avail_ring_address(inner, Some(queue.avail_ring() as u32), None);
        virtio_queue::QueueT::set_used_ring_address(inner, Some(queue.used_ring() as u32), None);
        virtio_queue::QueueT::set_ready(inner, true);
        drop(rings);
        block.kick();
        prop_assert!(queue.complete().is_some());
    }
}
