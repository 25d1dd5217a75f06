//! Serial console: a 16550 UART whose output goes to a file and whose input is never connected.

mod log;
mod state;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::{Serial, Trigger, serial::NoEvents};
use vmm_sys_util::eventfd::EventFd;

pub use state::ConsoleState;

use crate::DeviceError;
use crate::poll::new_event;
use log::Log;

/// The console; registers are at [`CONSOLE_PORT`](crate::layout::CONSOLE_PORT) and the following ports.
#[derive(Debug)]
pub struct Console {
    serial: Mutex<Serial<Line, NoEvents, Log>>,
    interrupt: EventFd,
}

/// The interrupt line as the UART raises it.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        // Fails only when the counter is at its limit, and then the event is pending anyway.
        let _ = self.0.write(1);
        Ok(())
    }
}

impl Console {
    /// A console in its reset state, appending to `out`.
    pub fn new(out: File) -> Result<Self, DeviceError> {
        Self::restore(ConsoleState::default(), out)
    }

    /// A console in a saved state, which may come from anywhere.
    pub fn restore(state: ConsoleState, out: File) -> Result<Self, DeviceError> {
        let interrupt = new_event()?;
        let host = |source| DeviceError::Host { resource: "an eventfd", source };
        let line = Line(interrupt.try_clone().map_err(host)?);
        let serial = Serial::from_state(&state.try_into()?, line, NoEvents, Log::new(out))
            .map_err(|_full| DeviceError::State { device: "the console", reason: "it holds too many bytes" })?;
        Ok(Self { serial: Mutex::new(serial), interrupt })
    }

    /// Its interrupt line ([`CONSOLE_GSI`](crate::layout::CONSOLE_GSI)).
    pub fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Reads the register at `offset` from the first port.
    pub fn read(&self, offset: u8) -> u8 {
        self.serial().read(offset)
    }

    /// Writes the register at `offset` from the first port.
    pub fn write(&self, offset: u8, value: u8) {
        if let Err(error) = self.serial().write(offset, value) {
            tracing::debug!(%error, "console output is lost");
        }
    }

    /// Writes output out that no newline has ended yet.
    pub fn flush(&self) {
        self.serial().writer_mut().write_out();
    }

    /// Its registers. Output is [flushed](Self::flush) first.
    pub fn save(&self) -> ConsoleState {
        self.flush();
        self.serial().state().into()
    }

    fn serial(&self) -> MutexGuard<'_, Serial<Line, NoEvents, Log>> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
