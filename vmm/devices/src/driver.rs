//! The guest's side, for tests: a driver that works the registers and rings as the kernel does.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress, GuestMemory};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::layout::slot_address;
use crate::{DeviceSet, GuestRam};

/// How long a test waits for something that should happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// RAM of a test guest: two regions that touch, so that buffers may cross from one into the other.
pub(crate) const RAM_BYTES: u64 = 8 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

pub(crate) fn ram() -> GuestRam {
    let half = RAM_BYTES as usize / 2;
    GuestRam::from_ranges(&[(GuestAddress(0), half), (GuestAddress(half as u64), half)]).unwrap()
}

/// A piece of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) writable: bool,
}

pub(crate) fn readable(address: u64, bytes: u32) -> Piece {
    Piece { address, bytes, writable: false }
}

pub(crate) fn writable(address: u64, bytes: u32) -> Piece {
    Piece { address, bytes, writable: true }
}

/// A driver's queue: descriptors, available ring and used ring in one piece of memory.
#[derive(Debug)]
pub(crate) struct DriverQueue {
    ram: GuestRam,
    pub(crate) base: u64,
    pub(crate) size: u16,
    event_idx: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    avail: u16,
    used: u16,
}

impl DriverQueue {
    pub(crate) fn new(ram: &GuestRam, base: u64, size: u16) -> Self {
        Self {
            ram: ram.clone(),
            base,
            size,
            event_idx: true,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size.into()],
            avail: 0,
            used: 0,
        }
    }

    pub(crate) fn avail_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub(crate) fn used_ring(&self) -> u64 {
        self.base + 0x2000
    }

    pub(crate) fn has_room(&self, pieces: usize) -> bool {
        self.free.len() >= pieces
    }

    /// Head of the request that would be offered next.
    pub(crate) fn next_head(&self) -> u16 {
        *self.free.last().expect("a free descriptor")
    }

    fn store(&self, address: u64, value: u16) {
        self.ram.store(value, GuestAddress(address), std::sync::atomic::Ordering::SeqCst).unwrap();
    }

    fn load(&self, address: u64) -> u16 {
        self.ram.load(GuestAddress(address), std::sync::atomic::Ordering::SeqCst).unwrap()
    }

    pub(crate) fn write_descriptor(&self, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        let at = self.base + 16 * u64::from(index);
        self.ram.write_obj(address, GuestAddress(at)).unwrap();
        self.ram.write_obj(bytes, GuestAddress(at + 8)).unwrap();
        self.ram.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.ram.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Makes a chain available as its head says, without any bookkeeping.
    pub(crate) fn publish(&mut self, head: u16) {
        self.store(self.avail_ring() + 4 + 2 * u64::from(self.avail % self.size), head);
        self.avail = self.avail.wrapping_add(1);
        self.store(self.avail_ring() + 2, self.avail);
    }

    /// Offers a request; returns its head and whether the device wants to be notified.
    pub(crate) fn offer(&mut self, pieces: &[Piece]) -> (u16, bool) {
        let indices: Vec<u16> = pieces.iter().map(|_| self.free.pop().expect("a free descriptor")).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let next = indices.get(at + 1).copied();
            let flags = next.map_or(0, |_| NEXT) | if piece.writable { WRITE } else { 0 };
            self.write_descriptor(indices[at], piece.address, piece.bytes, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        let before = self.avail;
        self.publish(head);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.load(self.used_ring() + 4 + 8 * u64::from(self.size));
            self.avail.wrapping_sub(event).wrapping_sub(1) < self.avail.wrapping_sub(before)
        } else {
            self.load(self.used_ring()) & 1 == 0
        };
        (head, wanted)
    }

    /// The next completed request: its head and the bytes written to it.
    pub(crate) fn complete(&mut self) -> Option<(u16, u32)> {
        if self.load(self.used_ring() + 2) == self.used {
            return None;
        }
        let at = self.used_ring() + 4 + 8 * u64::from(self.used % self.size);
        let head: u32 = self.ram.read_obj(GuestAddress(at)).unwrap();
        let written: u32 = self.ram.read_obj(GuestAddress(at + 4)).unwrap();
        self.used = self.used.wrapping_add(1);
        let head = u16::try_from(head).unwrap();
        self.free.append(&mut self.chains[usize::from(head)]);
        Some((head, written))
    }

    /// Asks for an interrupt at the next completion; returns whether one has already happened.
    pub(crate) fn arm(&self) -> bool {
        self.store(self.avail_ring() + 4 + 2 * u64::from(self.size), self.used);
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.load(self.used_ring() + 2) != self.used
    }

    /// The queue as another machine's memory has it.
    pub(crate) fn moved_to(mut self, ram: &GuestRam) -> Self {
        self.ram = ram.clone();
        self
    }
}

pub(crate) fn read_register(set: &DeviceSet, slot: usize, register: u32) -> u32 {
    let mut data = [0; 4];
    set.mmio_read(slot_address(slot) + u64::from(register), &mut data);
    u32::from_le_bytes(data)
}

pub(crate) fn write_register(set: &DeviceSet, slot: usize, register: u32, value: u32) {
    set.mmio_write(slot_address(slot) + u64::from(register), &value.to_le_bytes());
}

/// Agrees on every feature but those in `without`.
pub(crate) fn negotiate(set: &DeviceSet, slot: usize, without: u64) {
    for status in [0, 1, 3] {
        write_register(set, slot, reg::VIRTIO_MMIO_STATUS, status);
    }
    for half in 0..2 {
        write_register(set, slot, reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        write_register(set, slot, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        let offered = read_register(set, slot, reg::VIRTIO_MMIO_DEVICE_FEATURES);
        let refused = (without >> (32 * half)) as u32;
        write_register(set, slot, reg::VIRTIO_MMIO_DRIVER_FEATURES, offered & !refused);
    }
    write_register(set, slot, reg::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(read_register(set, slot, reg::VIRTIO_MMIO_STATUS), 11);
}

pub(crate) fn configure(set: &DeviceSet, slot: usize, index: u32, queue: &DriverQueue) {
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_SEL, index);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_NUM, queue.size.into());
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_DESC_LOW, queue.base as u32);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.avail_ring() as u32);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_USED_LOW, queue.used_ring() as u32);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
    write_register(set, slot, reg::VIRTIO_MMIO_QUEUE_READY, 1);
}

/// Brings a device up with these queues, as the kernel does.
pub(crate) fn bring_up(set: &DeviceSet, slot: usize, queues: &[&DriverQueue]) {
    negotiate(set, slot, 0);
    for (index, queue) in (0..).zip(queues) {
        configure(set, slot, index, queue);
    }
    write_register(set, slot, reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(read_register(set, slot, reg::VIRTIO_MMIO_STATUS), 15);
}

/// Notifies a queue through the event that KVM would signal.
pub(crate) fn kick(set: &DeviceSet, slot: usize, queue: u32) {
    let address = slot_address(slot) + u64::from(reg::VIRTIO_MMIO_QUEUE_NOTIFY);
    let (.., event) = set.notifiers(slot).find(|&(at, index, _)| (at, index) == (address, queue)).unwrap();
    event.write(1).unwrap();
}

pub(crate) fn interrupt(set: &DeviceSet, slot: usize) -> &EventFd {
    set.interrupt(slot).1
}

/// Waits for an interrupt and acknowledges it as the kernel does; returns its reasons.
pub(crate) fn wait_interrupt(set: &DeviceSet, slot: usize) -> u32 {
    let event = interrupt(set, slot);
    wait_readable(event.as_raw_fd());
    event.read().unwrap();
    let reasons = read_register(set, slot, reg::VIRTIO_MMIO_INTERRUPT_STATUS);
    write_register(set, slot, reg::VIRTIO_MMIO_INTERRUPT_ACK, reasons);
    reasons
}

/// Waits for the next completion of a queue, sleeping until interrupted as a driver does.
pub(crate) fn wait_complete(set: &DeviceSet, slot: usize, queue: &mut DriverQueue) -> (u16, u32) {
    loop {
        if let Some(completed) = queue.complete() {
            return completed;
        }
        if !queue.arm() {
            wait_interrupt(set, slot);
        }
    }
}

pub(crate) fn wait_readable(fd: i32) {
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
    let milliseconds = i32::try_from(PATIENCE.as_millis()).unwrap();
    let started = Instant::now();
    loop {
        match epoll.wait(milliseconds, &mut [EpollEvent::default()]) {
            Ok(0) => panic!("nothing happened in {PATIENCE:?}"),
            Ok(_) => return,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted && started.elapsed() < PATIENCE => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until a condition holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub(crate) fn put(ram: &GuestRam, address: u64, bytes: &[u8]) {
    ram.write_slice(bytes, GuestAddress(address)).unwrap();
}

pub(crate) fn get(ram: &GuestRam, address: u64, bytes: usize) -> Vec<u8> {
    let mut data = vec![0; bytes];
    ram.read_slice(&mut data, GuestAddress(address)).unwrap();
    data
}

/// A copy of a machine's memory, as a restore maps it.
pub(crate) fn clone_ram(from: &GuestRam) -> GuestRam {
    let copy = ram();
    put(&copy, 0, &get(from, 0, usize::try_from(RAM_BYTES).unwrap()));
    assert!(copy.check_range(GuestAddress(0), usize::try_from(RAM_BYTES).unwrap()));
    copy
}
