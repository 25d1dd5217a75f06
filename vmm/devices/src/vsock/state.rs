//! What the socket device saves beyond its slot: it may have no connections then.

use serde::{Deserialize, Serialize};

use super::switchboard::{HOST_PORTS, Switchboard};
use super::{IDENTITY, Vsock};
use crate::poll::Poll;
use crate::transport::Page;
use crate::{DeviceError, GuestRam};

/// Where the device left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VsockState {
    /// Continued, so that no new connection looks like one that the guest is still forgetting.
    next_port: u32,
}

impl Vsock {
    /// The state of the device; refused while connections are open.
    pub(crate) fn save(&self) -> Result<VsockState, DeviceError> {
        let switchboard = self.switchboard();
        match switchboard.open_connections() {
            0 => Ok(VsockState { next_port: switchboard.next_port() }),
            open => Err(DeviceError::Connected { open }),
        }
    }

    /// A device whose guest listens, as every captured guest does.
    pub(crate) fn restore(state: VsockState, ram: GuestRam, page: Page, poll: Poll) -> Result<Self, DeviceError> {
        if !HOST_PORTS.contains(&state.next_port) {
            return Err(DeviceError::State { device: IDENTITY.name, reason: "its next port is out of range" });
        }
        Self::with_switchboard(ram, page, poll, Switchboard::new(true, state.next_port))
    }
}
