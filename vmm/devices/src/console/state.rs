//! The console's registers as plain data.

use serde::{Deserialize, Serialize};
use vm_superio::SerialState;

use crate::DeviceError;

/// Bytes that the UART's receive buffer holds; only its loopback mode puts some there.
const FIFO_BYTES: usize = 64;

/// Saved registers of the console. Untrusted until [`Console::restore`](super::Console::restore) accepted them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleState {
    baud_divisor: [u8; 2],
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    received: Vec<u8>,
}

impl Default for ConsoleState {
    fn default() -> Self {
        SerialState::default().into()
    }
}

impl From<SerialState> for ConsoleState {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor: [state.baud_divisor_low, state.baud_divisor_high],
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            received: state.in_buffer,
        }
    }
}

impl TryFrom<ConsoleState> for SerialState {
    type Error = DeviceError;

    fn try_from(state: ConsoleState) -> Result<Self, DeviceError> {
        if state.received.len() > FIFO_BYTES {
            return Err(DeviceError::State { device: "the console", reason: "it holds too many bytes" });
        }
        let [baud_divisor_low, baud_divisor_high] = state.baud_divisor;
        Ok(Self {
            baud_divisor_low,
            baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.received,
        })
    }
}
