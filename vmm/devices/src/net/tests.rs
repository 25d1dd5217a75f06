use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use virtio_bindings::virtio_mmio as reg;

use super::{FRAME_BYTES, HEADER_BYTES};
use crate::driver::{
    DriverQueue, Piece, bring_up, get, kick, put, ram, read_register, readable, until, wait_complete, wait_interrupt,
    writable,
};
use crate::layout::{CARDS, NET_SLOTS, slot_address};
use crate::{Backings, DeviceError, DeviceSet, GuestRam, Window};

const NET_SLOT: usize = NET_SLOTS[0];

/// A guest with a card, and the other end of its wire: a socket that keeps messages apart as a tap does.
struct Trial {
    ram: GuestRam,
    set: DeviceSet,
    rx: DriverQueue,
    tx: DriverQueue,
    wire: UnixDatagram,
    /// What the card has, too.
    tap: File,
}

impl Trial {
    fn new() -> Self {
        let (trial, tap) = Self::without_link();
        trial.set.attach_network(0, tap).unwrap();
        assert_eq!(wait_interrupt(&trial.set, NET_SLOT) & 2, 2, "the link's change is told");
        trial
    }

    fn without_link() -> (Self, File) {
        let ram = ram();
        let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
        let (rx, tx) = (DriverQueue::new(&ram, 0x10_000, 256), DriverQueue::new(&ram, 0x20_000, 256));
        bring_up(&set, NET_SLOT, &[&rx, &tx]);
        set.start(|| (), || ()).unwrap();
        let (tap, wire) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        let tap = File::from(OwnedFd::from(tap));
        (Self { ram, set, rx, tx, wire, tap: tap.try_clone().unwrap() }, tap)
    }

    fn offer_places(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            let (_, wanted) = self.rx.offer(&[*piece]);
            if wanted {
                kick(&self.set, NET_SLOT, 0);
            }
        }
    }

    fn send(&mut self, pieces: &[Piece]) -> u16 {
        let (head, wanted) = self.tx.offer(pieces);
        if wanted {
            kick(&self.set, NET_SLOT, 1);
        }
        head
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.set.mmio_read(slot_address(NET_SLOT) + u64::from(reg::VIRTIO_MMIO_CONFIG) + 6, &mut status);
        status[0]
    }
}

/// A frame with the driver's header: bytes that tell where they belong.
fn frame(bytes: usize) -> Vec<u8> {
    (0..HEADER_BYTES + bytes).map(|at| (at % 251) as u8).collect()
}

/// The same as the tap has it.
fn on_wire(frame: &[u8]) -> Vec<u8> {
    [&frame[..10], &frame[12..]].concat()
}

#[test]
fn the_link_comes_up_once() {
    let (trial, tap) = Trial::without_link();
    assert_eq!(trial.status(), 0);
    let generation = read_register(&trial.set, NET_SLOT, reg::VIRTIO_MMIO_CONFIG_GENERATION);
    let second = tap.try_clone().unwrap();
    trial.set.attach_network(0, tap).unwrap();
    assert_eq!(wait_interrupt(&trial.set, NET_SLOT), 3);
    assert_eq!(trial.status(), 1);
    assert_ne!(read_register(&trial.set, NET_SLOT, reg::VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert!(matches!(trial.set.attach_network(0, second), Err(DeviceError::Attached)));
    trial.set.quiesce().unwrap();
    assert!(matches!(trial.set.save(), Err(DeviceError::Attached)));
}

#[test]
fn a_frame_reaches_the_guest_in_one_place() {
    let mut trial = Trial::new();
    trial.offer_places(&[writable(0x40_000, 2048)]);
    let sent = frame(1514);
    trial.wire.send(&on_wire(&sent)).unwrap();
    let (_, written) = wait_complete(&trial.set, NET_SLOT, &mut trial.rx);
    assert_eq!(written as usize, sent.len());
    let received = get(&trial.ram, 0x40_000, sent.len());
    assert_eq!(received[10..12], [1, 0], "number of places");
    assert_eq!(on_wire(&received), on_wire(&sent));
}

#[test]
fn a_large_frame_is_spread_over_places() {
    let mut trial = Trial::new();
    let places: Vec<_> = (0..44).map(|place| writable(0x40_000 + 0x1000 * place, 1536)).collect();
    trial.offer_places(&places);
    let sent = frame(65_549);
    trial.wire.send(&on_wire(&sent)).unwrap();
    let mut received = Vec::new();
    for place in 0..(sent.len().div_ceil(1536) as u64) {
        let (_, written) = wait_complete(&trial.set, NET_SLOT, &mut trial.rx);
        received.extend(get(&trial.ram, 0x40_000 + 0x1000 * place, written as usize));
    }
    assert_eq!(received.len(), sent.len());
    assert_eq!(received[10..12], [43, 0]);
    assert_eq!(on_wire(&received), on_wire(&sent));
}

#[test]
fn a_frame_waits_for_places() {
    let mut trial = Trial::new();
    trial.offer_places(&[writable(0x40_000, 1000)]);
    let (first, second) = (frame(1900), frame(60));
    trial.wire.send(&on_wire(&first)).unwrap();
    until("taking the frame from the wire", || rustix::io::ioctl_fionread(&trial.tap).unwrap() == 0);
    trial.wire.send(&on_wire(&second)).unwrap();
    assert!(trial.rx.complete().is_none(), "half a frame");
    trial.offer_places(&[writable(0x50_000, 1000), writable(0x60_000, 1000)]);
    let written: Vec<_> = (0..3).map(|_| wait_complete(&trial.set, NET_SLOT, &mut trial.rx).1 as usize).collect();
    assert_eq!(written, [1000, first.len() - 1000, second.len()]);
    assert_eq!(get(&trial.ram, 0x50_000, first.len() - 1000), first[1000..]);
    assert_eq!(get(&trial.ram, 0x60_000 + 12, second.len() - 12), second[12..]);
}

#[test]
fn frames_leave_the_guest_as_they_are() {
    let mut trial = Trial::new();
    let sent = frame(3000);
    put(&trial.ram, 0x40_000, &sent);
    let head = trial.send(&[readable(0x40_000, 12), readable(0x40_00c, 1000), readable(0x40_3f4, 2000)]);
    assert_eq!(wait_complete(&trial.set, NET_SLOT, &mut trial.tx), (head, 0));
    let mut received = vec![0; FRAME_BYTES];
    let bytes = trial.wire.recv(&mut received).unwrap();
    assert_eq!(received[..bytes], on_wire(&sent));
}

#[test]
fn frames_are_lost_without_a_link_and_when_they_are_wrong() {
    let (mut trial, tap) = Trial::without_link();
    let head = trial.send(&[readable(0x40_000, 100)]);
    assert_eq!(wait_complete(&trial.set, NET_SLOT, &mut trial.tx), (head, 0));
    trial.set.attach_network(0, tap).unwrap();
    let scattered: Vec<_> = (0..65).map(|at| readable(0x40_000 + 16 * at, 16)).collect();
    for wrong in [&[writable(0x40_000, 100)][..], &scattered] {
        let head = trial.send(wrong);
        assert_eq!(wait_complete(&trial.set, NET_SLOT, &mut trial.tx), (head, 0));
    }
    trial.wire.set_nonblocking(true).unwrap();
    let left = trial.wire.recv(&mut [0; 2000]);
    assert!(left.is_err() || left.is_ok_and(|bytes| bytes == 0), "something was sent");
}

#[test]
fn a_wire_that_is_full_loses_nothing() {
    let mut trial = Trial::new();
    let sent = frame(1000);
    put(&trial.ram, 0x40_000, &sent);
    let count = 200;
    for _ in 0..count {
        trial.send(&[readable(0x40_000, sent.len() as u32)]);
    }
    let mut completed = 0;
    let mut received = vec![0; FRAME_BYTES];
    for _ in 0..count {
        let bytes = trial.wire.recv(&mut received).unwrap();
        assert_eq!(received[..bytes], on_wire(&sent));
        while trial.tx.complete().is_some() {
            completed += 1;
        }
    }
    until("completing them", || {
        completed += usize::from(trial.tx.complete().is_some());
        completed == count
    });
}

#[test]
fn too_short_a_frame_is_dropped() {
    let mut trial = Trial::new();
    trial.offer_places(&[writable(0x40_000, 2048)]);
    trial.wire.send(&[0; 10]).unwrap();
    trial.wire.send(&on_wire(&frame(60))).unwrap();
    let (_, written) = wait_complete(&trial.set, NET_SLOT, &mut trial.rx);
    assert_eq!(written as usize, HEADER_BYTES + 60);
}

#[test]
fn a_card_without_its_tap_has_no_link_and_takes_another() {
    let mut trial = Trial::new();
    trial.set.detach_network(0).unwrap();
    assert_eq!(wait_interrupt(&trial.set, NET_SLOT) & 2, 2, "the link's change is told");
    assert_eq!(trial.status(), 0);
    // What the guest sends is lost, what comes stays outside.
    put(&trial.ram, 0x100_000, &frame(100));
    let head = trial.send(&[readable(0x100_000, 112)]);
    assert_eq!(wait_complete(&trial.set, NET_SLOT, &mut trial.tx), (head, 0));
    let (tap, wire) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    trial.set.attach_network(0, File::from(OwnedFd::from(tap))).unwrap();
    assert_eq!(wait_interrupt(&trial.set, NET_SLOT) & 2, 2, "the link's change is told");
    trial.send(&[readable(0x100_000, 112)]);
    let mut sent = [0; 200];
    let bytes = wire.recv(&mut sent).unwrap();
    assert_eq!(sent[..bytes], on_wire(&frame(100)));
}

#[test]
fn cards_are_told_apart_and_connected_when_they_are_used() {
    let set = DeviceSet::new(ram(), &Window::default(), Backings::default()).unwrap();
    let address = |slot: usize| {
        let mut address = [0; 6];
        set.mmio_read(slot_address(slot) + u64::from(reg::VIRTIO_MMIO_CONFIG), &mut address);
        address
    };
    assert_eq!(NET_SLOTS.map(address), [1, 2, 3, 4].map(|last| [2, 0, 0, 0, 0, last]));
    assert_eq!(set.slots_at_start().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!([0, 1, 3, 1, CARDS].map(|card| set.slot_to_connect(card)), [None, Some(5), Some(7), None, None]);
    let error = set.detach_network(CARDS).unwrap_err();
    assert!(error.to_string().contains("no network card 4"), "{error}");
}
