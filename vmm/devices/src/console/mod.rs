//! Console (skeleton).
use crate::DeviceError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use vmm_sys_util::eventfd::EventFd;

/// Saved registers of the console.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {}

/// A 16550 UART whose output goes to a file.
#[derive(Debug)]
pub struct Console {
    interrupt: EventFd,
}

impl Console {
    /// A console in its reset state, appending to `out`.
    pub fn new(_out: File) -> Result<Self, DeviceError> {
        Ok(Self {
            interrupt: EventFd::new(libc::EFD_NONBLOCK)
                .map_err(|source| DeviceError::Host { resource: "eventfd", source })?,
        })
    }
    /// A console in a saved state.
    pub fn restore(_state: ConsoleState, out: File) -> Result<Self, DeviceError> {
        Self::new(out)
    }
    /// Its interrupt line ([`crate::layout::CONSOLE_GSI`]).
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }
    /// Reads the register at `offset` from the first port.
    pub fn read(&self, _offset: u8) -> u8 {
        0
    }
    /// Writes the register at `offset` from the first port.
    pub fn write(&self, _offset: u8, _value: u8) {}
    /// Its registers.
    pub fn save(&self) -> ConsoleState {
        ConsoleState {}
    }
}
