//! All devices of a VM (skeleton).
use crate::{DeviceError, GuestRam};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;
use vmm_sys_util::eventfd::EventFd;

/// What stands behind the two disks.
#[derive(Debug, Default)]
pub struct Backings {
    /// Files of the layer disk in order, each with its length in bytes; opened for reading.
    pub layers: Vec<(File, u64)>,
    /// Image of the upper disk and its capacity in bytes; opened for reading and writing.
    pub upper: Option<(File, u64)>,
}

/// Saved state of all devices. Untrusted until [`DeviceSet::restore`] accepted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSetState {}

/// The fixed four slots of [`crate::layout`].
#[derive(Debug)]
pub struct DeviceSet {}

impl DeviceSet {
    /// Devices as a guest finds them when it boots.
    pub fn new(_ram: GuestRam, _backings: Backings) -> Result<Self, DeviceError> {
        Ok(Self {})
    }
    /// Devices as a captured guest left them, with other files behind the disks.
    pub fn restore(_state: DeviceSetState, _ram: GuestRam, _backings: Backings) -> Result<Self, DeviceError> {
        Ok(Self {})
    }
    /// Lets the workers process queues.
    pub fn start(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// A vCPU reads `data.len()` bytes at a guest physical address.
    pub fn mmio_read(&self, _address: u64, data: &mut [u8]) {
        data.fill(0);
    }
    /// A vCPU writes at a guest physical address.
    pub fn mmio_write(&self, _address: u64, _data: &[u8]) {}
    /// Interrupt lines: GSI and the event that raises it (edge).
    pub fn interrupts(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        std::iter::empty()
    }
    /// Queue notifications: address of the 4-byte register, value that selects the event, the event.
    pub fn notifiers(&self) -> impl Iterator<Item = (u64, u32, &EventFd)> {
        std::iter::empty()
    }
    /// Connects a stream socket to a port of the guest. A refusal shows as end of file on the stream.
    pub fn connect(&self, _port: u32, _stream: OwnedFd) -> Result<(), DeviceError> {
        Ok(())
    }
    /// Connections to the guest that exist or are being made.
    pub fn open_connections(&self) -> usize {
        0
    }
    /// Stops the workers; requests that a worker took are completed.
    pub fn quiesce(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    /// The state of all devices, only after [`Self::quiesce`].
    pub fn save(&self) -> Result<DeviceSetState, DeviceError> {
        Ok(DeviceSetState {})
    }
}
