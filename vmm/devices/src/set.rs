//! All devices of a VM, in the fixed slots of [`crate::layout`].

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INT_VRING;
use vmm_sys_util::eventfd::EventFd;

use crate::block::{Block, BlockState, Disk, Role};
use crate::layout::{LAYERS_SLOT, MMIO_BASE, NET_SLOT, SLOT_BYTES, SLOTS, UPPER_SLOT, slot_address, slot_gsi};
use crate::net::Net;
use crate::poll::{Poll, new_event};
use crate::rng::Rng;
use crate::transport::{Device, Slot, SlotState};
use crate::vsock::{Vsock, VsockState};
use crate::worker::Worker;
use crate::{DeviceError, GuestRam};

/// Offset of the register that queue notifications are written to (virtio 1.3 §4.2.2, QueueNotify).
const QUEUE_NOTIFY: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

/// Offset of the register that interrupts are acknowledged in (InterruptACK).
const INTERRUPT_ACK: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_INTERRUPT_ACK as u64;

/// What stands behind the two disks.
#[derive(Debug, Default)]
pub struct Backings {
    /// Files of the layer disk in order, each with its length in bytes (a multiple of 512); opened for reading. On
    /// the disk each is padded with zeros to a multiple of 4096. None leaves a disk of one zeroed sector.
    pub layers: Vec<(File, u64)>,
    /// Image of the upper disk and its capacity in bytes (a multiple of 512); opened for reading and writing. `None`
    /// leaves a disk of one zeroed sector.
    pub upper: Option<(File, u64)>,
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
    slots: [Slot; SLOTS],
    layers: Arc<Block>,
    upper: Arc<Block>,
    vsock: Arc<Vsock>,
    net: Arc<Net>,
    workers: [Worker; 3],
    /// Nobody waits for it.
    unheard: EventFd,
}

/// The devices themselves, before they are put into slots.
struct Devices {
    layers: Arc<Block>,
    upper: Arc<Block>,
    vsock: Arc<Vsock>,
    rng: Arc<Rng>,
    net: Arc<Net>,
    workers: [Worker; 3],
}

impl Devices {
    /// The disks have a worker each, as files can keep them waiting. The others never wait and share one.
    fn new(
        ram: GuestRam,
        backings: Backings,
        vsock: impl FnOnce(GuestRam, Poll) -> Result<Vsock, DeviceError>,
    ) -> Result<Self, DeviceError> {
        let (layers_poll, upper_poll, shared_poll) = (Poll::new()?, Poll::new()?, Poll::new()?);
        let layers_disk = Disk::new(Role::Layers.serial(), false, backings.layers)?;
        let upper_disk = Disk::new(Role::Upper.serial(), true, backings.upper.into_iter().collect())?;
        let layers = Arc::new(Block::new(Role::Layers, layers_disk, ram.clone(), &layers_poll)?);
        let upper = Arc::new(Block::new(Role::Upper, upper_disk, ram.clone(), &upper_poll)?);
        let vsock = Arc::new(vsock(ram.clone(), shared_poll.clone())?);
        let rng = Arc::new(Rng::new(ram.clone(), &shared_poll.next())?);
        let net = Arc::new(Net::new(ram, shared_poll.next().next())?);
        let workers = [
            Worker::new("layers", layers_poll, vec![layers.clone()])?,
            Worker::new("upper", upper_poll, vec![upper.clone()])?,
            Worker::new("vsock", shared_poll, vec![vsock.clone(), rng.clone(), net.clone()])?,
        ];
        Ok(Self { layers, upper, vsock, rng, net, workers })
    }

    /// By slot.
    fn in_order(&self) -> [Arc<dyn Device>; SLOTS] {
        [self.layers.clone(), self.upper.clone(), self.vsock.clone(), self.rng.clone(), self.net.clone()]
    }
}

impl DeviceSet {
    /// Devices as a guest finds them when it boots.
    pub fn new(ram: GuestRam, backings: Backings) -> Result<Self, DeviceError> {
        let devices = Devices::new(ram, backings, Vsock::new)?;
        let slots = devices.in_order().map(Slot::new);
        Self::assemble(slots, devices)
    }

    /// Devices as a captured guest left them, with other files behind the disks. The guest learns of new capacities
    /// by an interrupt once it runs. Connections are passed on to it at once, as it listened when it was captured.
    pub fn restore(state: DeviceSetState, ram: GuestRam, backings: Backings) -> Result<Self, DeviceError> {
        let devices = Devices::new(ram, backings, |ram, poll| Vsock::restore(state.vsock, ram, poll))?;
        let saved = <[SlotState; SLOTS]>::try_from(state.slots)
            .map_err(|_slots| DeviceError::State { device: "the device set", reason: "it has not five slots" })?;
        let [layers, upper, vsock, rng, net] = devices.in_order();
        let [saved_layers, saved_upper, saved_vsock, saved_rng, saved_net] = saved;
        let slots = [
            Slot::restore(layers, saved_layers)?,
            Slot::restore(upper, saved_upper)?,
            Slot::restore(vsock, saved_vsock)?,
            Slot::restore(rng, saved_rng)?,
            Slot::restore(net, saved_net)?,
        ];
        if devices.layers.changed_since(state.layers) {
            slots[LAYERS_SLOT].note_config_change();
        }
        if devices.upper.changed_since(state.upper) {
            slots[UPPER_SLOT].note_config_change();
        }
        Self::assemble(slots, devices)
    }

    fn assemble(slots: [Slot; SLOTS], devices: Devices) -> Result<Self, DeviceError> {
        let Devices { layers, upper, vsock, net, workers, .. } = devices;
        Ok(Self { slots, layers, upper, vsock, net, workers, unheard: new_event()? })
    }

    /// Lets the workers process queues; they look at once at what the queues hold. Interrupts that a captured guest
    /// hasn't acknowledged are raised again. Each worker's thread calls `enter` before it looks at anything.
    pub fn start(&self, enter: fn()) -> Result<(), DeviceError> {
        self.vsock.set_running(true);
        for slot in &self.slots {
            slot.device().rings().interrupt.raise_pending();
        }
        self.workers.iter().try_for_each(|worker| worker.start(enter))
    }

    /// A vCPU reads `data.len()` bytes at a guest physical address. What doesn't exist reads as zeros.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.slot_at(address) {
            Some((slot, offset)) => slot.read(offset, data),
            None => data.fill(0),
        }
    }

    /// A vCPU writes at a guest physical address. What doesn't exist is ignored.
    pub fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((slot, offset)) = self.slot_at(address) {
            slot.write(offset, data);
        }
    }

    /// Interrupt lines: GSI and the event that raises it (edge).
    pub fn interrupts(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        self.slots.iter().enumerate().map(|(slot, page)| (slot_gsi(slot), page.device().rings().interrupt.event()))
    }

    /// Queue notifications: address of the 4-byte register, value that selects the event, the event. A notification
    /// may also come through [`Self::mmio_write`].
    pub fn notifiers(&self) -> impl Iterator<Item = (u64, u32, &EventFd)> {
        self.slots.iter().enumerate().flat_map(|(slot, page)| {
            let address = slot_address(slot) + QUEUE_NOTIFY;
            (0..).zip(page.device().rings().notifiers()).map(move |(queue, event)| (address, queue, event))
        })
    }

    /// Writes that need not be brought here: address of the 4-byte register, the value, and an event that nobody waits
    /// for. They may also come through [`Self::mmio_write`].
    pub fn idle_writes(&self) -> impl Iterator<Item = (u64, u32, &EventFd)> {
        (0..SLOTS).map(|slot| (slot_address(slot) + INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING, &self.unheard))
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
        let Backings { layers, upper } = backings;
        let (mut layer_disk, mut upper_disk) = (self.layers.disk_mut(), self.upper.disk_mut());
        let (has_layers, has_upper) = (!layers.is_empty(), upper.is_some());
        if let Some((file, bytes)) = upper {
            upper_disk.insert(upper_start, file, bytes)?;
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

    /// Takes away the image at a place of the upper disk. The guest uses it no more: what it still writes fails.
    pub fn detach(&self, upper_start: u64) -> Result<(), DeviceError> {
        self.upper.disk_mut().remove(upper_start)
    }

    /// Connects the network card to a tap device, opened without waiting, whose frames have a `struct virtio_net_hdr`
    /// before them. The guest sees its link come up.
    pub fn attach_network(&self, tap: File) -> Result<(), DeviceError> {
        self.net.attach(tap)?;
        self.tell_config_change(NET_SLOT);
        Ok(())
    }

    /// Has a running guest read a device's configuration again.
    fn tell_config_change(&self, slot: usize) {
        let slot = &self.slots[slot];
        slot.note_config_change();
        slot.device().rings().interrupt.raise_pending();
    }

    /// Stops the workers; requests that a worker took are completed. [`Self::start`] undoes it.
    pub fn quiesce(&self) -> Result<(), DeviceError> {
        self.workers.iter().for_each(Worker::stop);
        self.vsock.set_running(false);
        Ok(())
    }

    /// The state of all devices, only after [`Self::quiesce`] and with no connection open.
    pub fn save(&self) -> Result<DeviceSetState, DeviceError> {
        if self.workers.iter().any(Worker::is_running) {
            return Err(DeviceError::Running);
        }
        if self.net.has_link() {
            return Err(DeviceError::Attached);
        }
        Ok(DeviceSetState {
            slots: self.slots.iter().map(Slot::save).collect(),
            layers: self.layers.save(),
            upper: self.upper.save(),
            vsock: self.vsock.save()?,
        })
    }

    fn slot_at(&self, address: u64) -> Option<(&Slot, u64)> {
        let offset = address.checked_sub(MMIO_BASE)?;
        let slot = usize::try_from(offset / SLOT_BYTES).ok()?;
        Some((self.slots.get(slot)?, offset % SLOT_BYTES))
    }
}
