//! All devices of a VM, in the fixed slots of [`crate::layout`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::block::{Block, BlockState, Disk, Role};
use crate::files::{FileServer, Files};
use crate::layout::{
    CARDS, FILES_SLOT, LAYERS_SLOT, MMIO_BASE, NET_SLOTS, RNG_SLOT, SLOT_BYTES, SLOTS, UPPER_SLOT, VSOCK_SLOT,
    slot_address, slot_gsi,
};
use crate::net::Net;
use crate::poll::Poll;
use crate::ring::InterruptLine;
use crate::rng::Rng;
use crate::transport::{Device, Page, Slot, SlotState, Window};
use crate::vsock::{Vsock, VsockState};
use crate::worker::{Service, Worker};
use crate::{DeviceError, GuestRam};

/// Offset of the register that queue notifications are written to (virtio 1.3 §4.2.2, QueueNotify).
const QUEUE_NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// What stands behind the two disks and the file system.
#[derive(Debug, Default)]
pub struct Backings {
    /// Files of the layer disk in order, each with its length in bytes (a multiple of 512); opened for reading. On
    /// the disk each is padded with zeros to a multiple of 4096. None leaves a disk of one zeroed sector.
    pub layers: Vec<(File, u64)>,
    /// Image of the upper disk and its capacity in bytes (a multiple of 512); opened for reading and writing. `None`
    /// leaves a disk of one zeroed sector.
    pub upper: Option<(File, u64)>,
    /// Serves files; without it the guest is told that there are none.
    pub files: Option<FileServer>,
}

/// Saved state of all devices. Untrusted until [`DeviceSet::restore`] accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSetState {
    /// By slot.
    slots: Vec<SlotState>,
    layers: BlockState,
    upper: BlockState,
    vsock: VsockState,
}

/// The devices, their register pages and the threads that serve them.
///
/// A set starts out at rest. [`Self::start`] lets the workers touch guest memory, [`Self::quiesce`] ends that.
/// Dropping it quiesces it.
#[derive(Debug)]
pub struct DeviceSet {
    slots: Vec<Slot>,
    layers: Arc<Block>,
    upper: Arc<Block>,
    vsock: Arc<Vsock>,
    cards: [Arc<Net>; CARDS],
    /// Of the cards, those whose events are connected.
    connected: [AtomicBool; CARDS],
    files: Arc<Files>,
    workers: [Worker; 3],
    /// Serves files, if any are served.
    files_worker: Option<Worker>,
}

/// The devices themselves, before they are put into slots.
struct Devices {
    layers: Arc<Block>,
    upper: Arc<Block>,
    vsock: Arc<Vsock>,
    rng: Arc<Rng>,
    cards: [Arc<Net>; CARDS],
    files: Arc<Files>,
    workers: [Worker; 3],
    files_worker: Option<Worker>,
}

impl Devices {
    /// The disks have a worker each, as files can keep them waiting, and so has the file system if it has a server. The
    /// others never wait and share one.
    fn new(
        ram: GuestRam,
        window: &Window,
        backings: Backings,
        vsock: impl FnOnce(GuestRam, Page, Poll) -> Result<Vsock, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let (layers_poll, upper_poll, shared_poll) = (Poll::new()?, Poll::new()?, Poll::new()?);
        let layers_disk = Disk::new(Role::Layers.serial(), false, backings.layers)?;
        let upper_disk = Disk::new(Role::Upper.serial(), true, backings.upper.into_iter().collect())?;
        let layers =
            Arc::new(Block::new(Role::Layers, layers_disk, ram.clone(), window.page(LAYERS_SLOT), &layers_poll)?);
        let upper = Arc::new(Block::new(Role::Upper, upper_disk, ram.clone(), window.page(UPPER_SLOT), &upper_poll)?);
        let vsock = Arc::new(vsock(ram.clone(), window.page(VSOCK_SLOT), shared_poll.clone())?);
        let mut poll = shared_poll.next();
        let rng = Arc::new(Rng::new(ram.clone(), window.page(RNG_SLOT), &poll)?);
        let mut card = |number| {
            poll = poll.next();
            let page = window.page(NET_SLOTS[usize::from(number)]);
            Net::new(number, ram.clone(), page, poll.clone()).map(Arc::new)
        };
        let cards = [card(0)?, card(1)?, card(2)?, card(3)?];
        let mut shared: Vec<Arc<dyn Service>> = vec![vsock.clone(), rng.clone()];
        shared.extend(cards.iter().map(|card| Arc::clone(card) as Arc<dyn Service>));
        let has_server = backings.files.is_some();
        let files_poll = if has_server { Poll::new()? } else { poll.next() };
        let files = Arc::new(Files::new(ram, window.page(FILES_SLOT), backings.files, &files_poll)?);
        let files_worker = if has_server {
            Some(Worker::new("files", files_poll, vec![files.clone()])?)
        } else {
            shared.push(files.clone());
            None
        };
        let workers = [
            Worker::new("layers", layers_poll, vec![layers.clone()])?,
            Worker::new("upper", upper_poll, vec![upper.clone()])?,
            Worker::new("vsock", shared_poll, shared)?,
        ];
        Ok(Self { layers, upper, vsock, rng, cards, files, workers, files_worker })
    }

    /// By slot.
    fn in_order(&self) -> [Arc<dyn Device>; SLOTS] {
        let Self { layers, upper, vsock, rng, files, .. } = self;
        let [first, second, third, fourth] = self.cards.clone();
        [layers.clone(), upper.clone(), vsock.clone(), rng.clone(), first, second, third, fourth, files.clone()]
    }
}

impl DeviceSet {
    /// Devices as a guest finds them when it boots, whose registers it reads in `window`.
    pub fn new(ram: GuestRam, window: &Window, backings: Backings) -> Result<Self, DeviceError> {
        let devices = Devices::new(ram, window, backings, Vsock::new)?;
        let slots = devices.in_order().map(Slot::new).into();
        Ok(Self::assemble(slots, devices))
    }

    /// Devices as a captured guest left them, with other files behind the disks. The guest learns of new capacities
    /// by an interrupt once it runs. Connections are passed on to it at once, as it listened when it was captured.
    pub fn restore(
        state: DeviceSetState,
        ram: GuestRam,
        window: &Window,
        backings: Backings,
    ) -> Result<Self, DeviceError> {
        let restore_vsock = |ram, page, poll| Vsock::restore(state.vsock, ram, page, poll);
        let devices = Devices::new(ram, window, backings, restore_vsock)?;
        if state.slots.len() != SLOTS {
            return Err(DeviceError::State { device: "the device set", reason: "it has another number of slots" });
        }
        let pages = devices.in_order().into_iter().zip(state.slots);
        let slots: Vec<Slot> = pages.map(|(device, saved)| Slot::restore(device, saved)).collect::<Result<_, _>>()?;
        if devices.layers.changed_since(state.layers) {
            slots[LAYERS_SLOT].note_config_change();
        }
        if devices.upper.changed_since(state.upper) {
            slots[UPPER_SLOT].note_config_change();
        }
        Ok(Self::assemble(slots, devices))
    }

    fn assemble(slots: Vec<Slot>, devices: Devices) -> Self {
        let Devices { layers, upper, vsock, cards, files, workers, files_worker, .. } = devices;
        Self { slots, layers, upper, vsock, cards, connected: Default::default(), files, workers, files_worker }
    }

    /// Lets the workers process queues; they look at once at what the queues hold. Interrupts that a captured guest
    /// hasn't acknowledged are raised again. Each worker's thread calls `enter` before it looks at anything, but the one
    /// that serves files calls `enter_files`.
    pub fn start(&self, enter: fn(), enter_files: fn()) -> Result<(), DeviceError> {
        self.vsock.set_running(true);
        for slot in &self.slots {
            slot.device().rings().interrupt.raise_pending();
        }
        self.workers.iter().try_for_each(|worker| worker.start(enter))?;
        self.files_worker.iter().try_for_each(|worker| worker.start(enter_files))
    }

    /// What a guest sees at a physical address.
    #[cfg(test)]
    pub(crate) fn mmio_read(&self, address: u64, data: &mut [u8]) {
        for (address, byte) in (address..).zip(data) {
            *byte = self.slot_at(address).map_or(0, |(slot, offset)| slot.read(offset));
        }
    }

    /// A vCPU writes at a guest physical address. What doesn't exist is ignored.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.slot_at(address) {
            slot.write(offset, data);
        }
    }

    /// The slots whose events are to be connected before the guest runs: all but those of further cards, which most
    /// guests never use, and of the file system without a server, for which a vCPU brings what is written there, which is
    /// hardly ever. Connecting an event takes as long as restoring a device.
    pub fn slots_at_start(&self) -> impl Iterator<Item = usize> {
        let has_server = self.files_worker.is_some();
        (0..SLOTS).filter(|slot| !NET_SLOTS[1..].contains(slot)).filter(move |slot| has_server || *slot != FILES_SLOT)
    }

    /// The slot of a card whose events aren't connected yet; from then on they count as connected.
    pub fn slot_to_connect(&self, card: usize) -> Option<usize> {
        let connected = self.connected.get(card)?.swap(true, Ordering::SeqCst);
        (card > 0 && !connected).then(|| NET_SLOTS[card])
    }

    /// Connects the interrupt line of each slot, by its GSI; once, before the set is started.
    pub fn connect_interrupts(&self, line: impl Fn(u32) -> Arc<dyn InterruptLine>) {
        for (number, slot) in self.slots.iter().enumerate() {
            slot.device().rings().interrupt.connect(line(slot_gsi(number)));
        }
    }

    /// Interrupt line of a slot: GSI and the event that is written when it is raised.
    #[cfg(test)]
    pub(crate) fn interrupt(&self, slot: usize) -> (u32, &EventFd) {
        (slot_gsi(slot), self.slots[slot].device().rings().interrupt.event())
    }

    /// Queue notifications of a slot: address of the 4-byte register, value that selects the event, the event. A
    /// notification may also come through [`Self::mmio_write`].
    pub fn notifiers(&self, slot: usize) -> impl Iterator<Item = (u64, u32, &EventFd)> {
        let address = slot_address(slot) + QUEUE_NOTIFY;
        let notifiers = self.slots[slot].device().rings().notifiers();
        (0..).zip(notifiers).map(move |(queue, event)| (address, queue, event))
    }

    /// Connects a stream socket to a port of the guest. A refusal shows as end of file on the stream.
    pub fn connect(&self, port: u32, stream: OwnedFd) -> Result<(), DeviceError> {
        self.vsock.connect(port, stream)
    }

    /// Connections to the guest that exist or are being made. One that the host closed counts until the guest has
    /// agreed, for which it has to run.
    pub fn open_connections(&self) -> usize {
        self.vsock.open_connections()
    }

    /// Adds files to the disks of a running guest, which hears of the new capacities: layers at the end of their disk,
    /// an image at a free place of the upper disk. All of them, or none.
    pub fn attach(&self, backings: Backings, upper_start: u64) -> Result<(), DeviceError> {
        let Backings { layers, upper, .. } = backings;
        let (mut layer_disk, mut upper_disk) = (self.layers.disk_mut(), self.upper.disk_mut());
        let (has_layers, has_upper) = (!layers.is_empty(), upper.is_some());
        if let Some((file, bytes)) = upper {
            upper_disk.insert(upper_start, file, bytes, true)?;
        }
        if let Err(error) = layer_disk.append(layers) {
            // Of the two, only it was changed, if there is one.
            let _none = has_upper.then(|| upper_disk.remove(upper_start));
            return Err(error);
        }
        drop((layer_disk, upper_disk));
        for (slot, has_more) in [(LAYERS_SLOT, has_layers), (UPPER_SLOT, has_upper)] {
            if has_more {
                self.tell_config_change(slot);
            }
        }
        Ok(())
    }

    /// Adds a block device of the host, of this length, at a free place of the upper disk. A running guest hears of the
    /// new capacity.
    pub fn attach_device(&self, start: u64, device: File, bytes: u64, writable: bool) -> Result<(), DeviceError> {
        self.upper.disk_mut().insert(start, device, bytes, writable)?;
        self.tell_config_change(UPPER_SLOT);
        Ok(())
    }

    /// Takes away the image or device at a place of the upper disk. The guest uses it no more: what it still writes fails.
    pub fn detach(&self, upper_start: u64) -> Result<(), DeviceError> {
        self.upper.disk_mut().remove(upper_start)
    }

    /// Connects a network card to a tap device, opened without waiting, whose frames have a `struct virtio_net_hdr`
    /// before them. The guest sees its link come up.
    pub fn attach_network(&self, card: usize, tap: File) -> Result<(), DeviceError> {
        self.card(card)?.attach(tap)?;
        self.tell_config_change(NET_SLOTS[card]);
        Ok(())
    }

    /// Takes its tap away from a network card. The guest sees its link go down.
    pub fn detach_network(&self, card: usize) -> Result<(), DeviceError> {
        self.card(card)?.detach();
        self.tell_config_change(NET_SLOTS[card]);
        Ok(())
    }

    fn card(&self, number: usize) -> Result<&Net, DeviceError> {
        self.cards.get(number).map(Arc::as_ref).ok_or(DeviceError::NoCard { number, cards: CARDS })
    }

    /// Has a running guest read a device's configuration again.
    fn tell_config_change(&self, slot: usize) {
        let slot = &self.slots[slot];
        slot.note_config_change();
        slot.device().rings().interrupt.raise_pending();
    }

    /// Stops the workers; requests that a worker took are completed. [`Self::start`] undoes it.
    pub fn quiesce(&self) -> Result<(), DeviceError> {
        self.all_workers().for_each(Worker::stop);
        self.vsock.set_running(false);
        Ok(())
    }

    /// The state of all devices, only after [`Self::quiesce`] and with no connection open.
    pub fn save(&self) -> Result<DeviceSetState, DeviceError> {
        if self.all_workers().any(Worker::is_running) {
            return Err(DeviceError::Running);
        }
        if self.cards.iter().any(|card| card.has_link()) {
            return Err(DeviceError::Attached);
        }
        if self.files.is_used() {
            return Err(DeviceError::Mounted);
        }
        Ok(DeviceSetState {
            slots: self.slots.iter().map(Slot::save).collect(),
            layers: self.layers.save(),
            upper: self.upper.save(),
            vsock: self.vsock.save()?,
        })
    }

    fn all_workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().chain(&self.files_worker)
    }

    fn slot_at(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(MMIO_BASE)?;
        let slot = usize::try_from(offset / SLOT_BYTES).ok()?;
        Some((self.slots.get(slot)?, offset % SLOT_BYTES))
    }
}
