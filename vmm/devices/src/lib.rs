//! The devices of a VM.
#![deny(unsafe_code)]

pub mod layout;

mod console;
mod error;
mod set;

pub use console::{Console, ConsoleState};
pub use error::DeviceError;
pub use set::{Backings, DeviceSet, DeviceSetState};

/// Guest memory as the devices see it; a clone refers to the same memory.
pub type GuestRam = vm_memory::GuestMemoryMmap<()>;
