//! The I/O ports of the machine: the console, and the two ways in which a guest says that it is done.

use devices::{Console, layout};

use crate::vcpu::GuestEnd;

/// ACPI sleep control register (ACPI 6.5 §4.8.3.7).
pub(super) const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub(super) const SLEEP_STATUS: u16 = 0x601;
/// Sleep type of S5, soft off.
pub(super) const SLEEP_TYPE_OFF: u8 = 5;
const SLEEP_ENABLE: u8 = 1 << 5;

/// Command port of the 8042 keyboard controller, which on PCs also resets the machine.
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_DATA: u16 = 0x60;
const RESET: u8 = 0xfe;

/// Port handlers, used by all vCPUs.
#[derive(Debug)]
pub struct Ports {
    console: Console,
}

impl Ports {
    /// The machine's ports.
    pub fn new(console: Console) -> Self {
        Self { console }
    }

    /// The serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// A guest writes to a port. Ports that don't exist swallow it.
    pub fn write(&self, port: u16, data: &[u8]) -> Option<GuestEnd> {
        match (port, data) {
            (SLEEP_CONTROL, &[value]) if value == SLEEP_TYPE_OFF << 2 | SLEEP_ENABLE => Some(GuestEnd::PoweredOff),
            (KEYBOARD_COMMAND, &[RESET]) => Some(GuestEnd::Reset),
            _ => {
                if let Some(offset) = console_register(port) {
                    // String output (`rep outsb`) arrives as one access of many bytes.
                    data.iter().for_each(|byte| self.console.write(offset, *byte));
                }
                None
            }
        }
    }

    /// A guest reads from a port. Ports that don't exist read as all ones, like an empty bus.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            // "Ready for a command": nothing waits to be read or written.
            KEYBOARD_COMMAND | KEYBOARD_DATA | SLEEP_STATUS => data.fill(0),
            _ => match console_register(port) {
                Some(offset) => data.fill_with(|| self.console.read(offset)),
                None => data.fill(0xff),
            },
        }
    }
}

fn console_register(port: u16) -> Option<u8> {
    let offset = port.checked_sub(layout::CONSOLE_PORT)?;
    (offset < layout::CONSOLE_PORTS).then_some(offset as u8)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn ports() -> (Ports, std::fs::File) {
        let file = tempfile::tempfile().unwrap();
        (Ports::new(Console::new(file.try_clone().unwrap()).unwrap()), file)
    }

    #[test]
    fn the_console_reaches_its_file() {
        let (ports, mut file) = ports();
        assert_eq!(ports.write(layout::CONSOLE_PORT, b"hello\n"), None);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello\n");
    }

    #[test]
    fn a_guest_can_end_itself_in_two_ways_only() {
        let (ports, _file) = ports();
        assert_eq!(ports.write(KEYBOARD_COMMAND, &[RESET]), Some(GuestEnd::Reset));
        assert_eq!(ports.write(SLEEP_CONTROL, &[0x34]), Some(GuestEnd::PoweredOff));
        for port in 0..=u16::MAX {
            for data in [&[0u8][..], &[0xff, 0xff], &[0xfe; 4], &[]] {
                assert_eq!(ports.write(port, data), None, "{port:#x} {data:?}");
            }
            ports.read(port, &mut [0; 4]);
            ports.read(port, &mut []);
        }
    }
}
