//! The devices of a VM: two disks, a socket device, an entropy source, a network card and a file system behind
//! virtio-mmio, and a serial console.
//!
//! The crate knows neither KVM nor bakes. vCPU threads bring what is written to registers ([`DeviceSet::mmio_write`]);
//! what they read as is memory of the guest's ([`Window`]); queue notifications are eventfds, interrupts go to an
//! [`InterruptLine`]; guest memory is [`GuestRam`]. A reader follows a request from `transport` (the register file) through `ring` (taking it from a
//! queue) to the device's folder, and back through `ring` and its interrupt.
//!
//! Whatever a guest writes to a register, a queue or its memory, and whatever a saved state says, is untrusted: it
//! is checked where it is read, takes bounded time and memory, and can't make the process panic.
#![deny(unsafe_code)]

pub mod layout;

mod block;
mod console;
#[cfg(test)]
mod driver;
mod error;
mod files;
mod net;
mod poll;
mod ring;
mod rng;
mod set;
mod sys;
mod transport;
mod vsock;
mod worker;

pub use console::{Console, ConsoleState};
pub use error::DeviceError;
pub use files::FileServer;
pub use ring::InterruptLine;
pub use set::{Backings, DeviceSet, DeviceSetState};
pub use transport::Window;

/// Guest memory as the devices see it; a clone refers to the same memory.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;
