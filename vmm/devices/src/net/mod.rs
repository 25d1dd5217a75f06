//! Network card (virtio 1.3 §5.1). Its wire is a tap device that someone hands in while the guest runs; until then it
//! has no link, which is how it is baked.
//!
//! Each frame travels with the header of §5.1.6 in front of it, which the host's kernel understands, so that checksums
//! and segmentation are left to whoever needs them last: on a bridge of the host, nobody. What the guest may send is
//! what every host's kernel takes; it takes itself what a newer one may bring as well, UDP segments.

mod tap;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::epoll::EventSet;

use crate::poll::{Poll, Watch};
use crate::ring::{Broken, Buffers, Ring, Rings};
use crate::transport::{Device, Identity, Page, read_from};
use crate::worker::Service;
use crate::{DeviceError, GuestRam};
use tap::{Sent, Tap};

/// Length of the header before each frame (§5.1.6, with `num_buffers`), in bytes.
pub(crate) const HEADER_BYTES: usize = 12;
/// Where the header says over how many places a frame was spread.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;
/// The largest frame: 64 KiB to be cut into segments, an Ethernet header with a tag, and ours.
const FRAME_BYTES: usize = 65536 + 18 + HEADER_BYTES;

const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZE: u16 = 256;
/// Frames moved in one direction before the worker looks at its other events.
const BUDGET: usize = 64;
/// Token of the tap's events; the queues have theirs below.
const TAP: u32 = 2;

/// The address that a guest's first card is baked with: a private one. The last byte tells the cards apart, the host
/// names them by it. Each gets the address of its interface before its link is up.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

const IDENTITY: Identity = Identity {
    name: "net",
    device_id: VIRTIO_ID_NET,
    features: 1 << VIRTIO_F_VERSION_1
        | 1 << VIRTIO_RING_F_EVENT_IDX
        | 1 << VIRTIO_RING_F_INDIRECT_DESC
        | 1 << VIRTIO_NET_F_MAC
        | 1 << VIRTIO_NET_F_STATUS
        | 1 << VIRTIO_NET_F_MRG_RXBUF
        | 1 << VIRTIO_NET_F_CSUM
        | 1 << VIRTIO_NET_F_HOST_TSO4
        | 1 << VIRTIO_NET_F_HOST_TSO6
        | 1 << VIRTIO_NET_F_GUEST_CSUM
        | 1 << VIRTIO_NET_F_GUEST_TSO4
        | 1 << VIRTIO_NET_F_GUEST_TSO6
        | 1 << VIRTIO_NET_F_GUEST_USO4
        | 1 << VIRTIO_NET_F_GUEST_USO6,
    queues: &[QUEUE_SIZE, QUEUE_SIZE],
};

/// The network card.
#[derive(Debug)]
pub(crate) struct Net {
    number: u8,
    wire: Mutex<Wire>,
    has_link: AtomicBool,
    rings: Rings,
    poll: Poll,
}

/// The tap, a frame from it for which the guest had no place yet, and whether one for it had none there.
#[derive(Debug)]
struct Wire {
    tap: Option<Tap>,
    frame: Vec<u8>,
    held: Option<usize>,
    /// The tap took no more, with frames left to be sent.
    is_full: bool,
}

impl Net {
    /// A card in its reset state, without a link; `number` counts the machine's cards from 0.
    pub(crate) fn new(number: u8, ram: GuestRam, page: Page, poll: Poll) -> Result<Self, DeviceError> {
        let rings = Rings::new(ram, page, IDENTITY.queues)?;
        for (token, notifier) in (0..).zip(rings.notifiers()) {
            poll.add(notifier.as_raw_fd(), token, Watch::Event)?;
        }
        let wire = Wire { tap: None, frame: Vec::new(), held: None, is_full: false };
        Ok(Self { number, wire: Mutex::new(wire), has_link: AtomicBool::new(false), rings, poll })
    }

    /// Connects the card to a tap: the link is up.
    pub(crate) fn attach(&self, tap: File) -> Result<(), DeviceError> {
        let mut wire = self.wire();
        if wire.tap.is_some() {
            return Err(DeviceError::Attached);
        }
        let tap = Tap::new(tap);
        self.poll.add(tap.as_raw_fd(), TAP, Watch::Stream)?;
        wire.frame.resize(FRAME_BYTES, 0);
        wire.tap = Some(tap);
        self.has_link.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the tap away: the link is down.
    pub(crate) fn detach(&self) {
        let mut wire = self.wire();
        // Closed with it, the tap leaves the poll.
        *wire = Wire { tap: None, frame: Vec::new(), held: None, is_full: false };
        self.has_link.store(false, Ordering::SeqCst);
    }

    /// Whether it is connected.
    pub(crate) fn has_link(&self) -> bool {
        self.has_link.load(Ordering::SeqCst)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        // At worst a frame is lost.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves frames, some of each, in the directions that an event is about; both if it is about none.
    fn exchange(&self, event: Option<u32>) {
        let mut wire = self.wire();
        let queue = event.and_then(|token| usize::try_from(token).ok()).filter(|queue| *queue < IDENTITY.queues.len());
        let (receives, sends) = match queue {
            Some(queue) => (queue == RX, queue == TX),
            // The tap tells that it has frames in the same way as that it takes some.
            None => (true, wire.is_full || event.is_none()),
        };
        let mut queues = self.rings.lock();
        if !queues.active {
            return;
        }
        let [rx, tx] = queues.rings.as_mut_slice() else { return };
        let mut exchange = || {
            let received = if receives { self.receive(&mut wire, rx)? } else { 0 };
            let sent = if sends { self.send(&mut wire, tx)? } else { 0 };
            Ok((received, sent))
        };
        match exchange() {
            Ok((received, sent)) => {
                for (queue, count) in [(RX, received), (TX, sent)] {
                    if count == BUDGET {
                        self.rings.notify(queue);
                    }
                }
            }
            Err(broken) => self.rings.give_up(&mut queues, &broken),
        }
    }

    /// Host to guest; returns how many frames.
    fn receive(&self, wire: &mut Wire, rx: &mut Ring) -> Result<usize, Broken> {
        let Wire { tap: Some(tap), frame, held, .. } = wire else { return Ok(0) };
        let ram = &self.rings.ram;
        let mut received = 0;
        rx.disarm(ram)?;
        while received < BUDGET {
            let Some(bytes) = held.take().or_else(|| tap.receive(frame)) else { break };
            let Some(frame) = frame.get_mut(..bytes).filter(|frame| frame.len() > HEADER_BYTES) else { continue };
            if !self.place(frame, rx)? {
                *held = Some(bytes);
                break;
            }
            received += 1;
        }
        if received > 0 && rx.wants_interrupt(ram)? {
            self.rings.interrupt.signal_used();
        }
        Ok(received)
    }

    /// Spreads a frame over places of the receive queue; false, and no change, if it has too few. The driver then
    /// tells when there are more.
    fn place(&self, frame: &mut [u8], rx: &mut Ring) -> Result<bool, Broken> {
        let ram = &self.rings.ram;
        let mut places: Vec<(u16, Buffers<'_>)> = Vec::new();
        let mut room = 0;
        while room < frame.len() {
            let place = if places.len() < usize::from(QUEUE_SIZE) { rx.pop_or_arm(ram)? } else { None };
            let Some(place) = place else {
                places.iter().for_each(|_| rx.undo_pop());
                return Ok(false);
            };
            let head = place.head;
            let buffers = place.request.map(|request| request.writable).unwrap_or_default();
            room += buffers.bytes();
            places.push((head, buffers));
        }
        let count = u16::try_from(places.len()).unwrap_or(QUEUE_SIZE);
        frame[NUM_BUFFERS].copy_from_slice(&count.to_le_bytes());
        let mut rest = &*frame;
        for (head, buffers) in places {
            let written = buffers.copy_from(rest);
            rest = &rest[written..];
            rx.push(ram, head, u32::try_from(written).unwrap_or_default())?;
        }
        Ok(true)
    }

    /// Guest to host; returns how many frames. Without a link they are lost.
    fn send(&self, wire: &mut Wire, tx: &mut Ring) -> Result<usize, Broken> {
        let ram = &self.rings.ram;
        let mut sent = 0;
        wire.is_full = false;
        tx.disarm(ram)?;
        while sent < BUDGET {
            let Some(chain) = tx.pop_or_arm(ram)? else { break };
            let head = chain.head;
            let frame = chain.request.map(|request| request.readable).unwrap_or_default();
            if let Some(tap) = &wire.tap
                && tap.send(frame) == Sent::Busy
            {
                // The tap tells when it takes more.
                wire.is_full = true;
                tx.undo_pop();
                break;
            }
            tx.push(ram, head, 0)?;
            sent += 1;
        }
        if sent > 0 && tx.wants_interrupt(ram)? {
            self.rings.interrupt.signal_used();
        }
        Ok(sent)
    }
}

impl Device for Net {
    fn identity(&self) -> Identity {
        IDENTITY
    }

    fn rings(&self) -> &Rings {
        &self.rings
    }

    fn read_config(&self, at: usize, data: &mut [u8]) {
        // §5.1.4: address, status, and the number of queue pairs, which isn't offered.
        let mut config = [0; 10];
        config[..MAC.len()].copy_from_slice(&MAC);
        config[MAC.len() - 1] += self.number;
        config[MAC.len()] = self.has_link().into();
        read_from(&config, at, data);
    }

    fn reset(&self) {
        self.wire().held = None;
    }
}

impl Service for Net {
    fn kick(&self) {
        self.exchange(None);
    }

    fn handle(&self, token: u32, _events: EventSet) {
        self.exchange(Some(token));
    }
}
