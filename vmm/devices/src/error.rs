//! What can go wrong when devices are made, restored or commanded.

use std::io;

/// A device could not be made, restored, started or saved.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The host refused a resource (an eventfd, an epoll instance, a thread).
    #[error("the host refused {resource} to a device")]
    Host {
        /// What was asked for.
        resource: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file behind a disk can't be used as stated.
    #[error(
        "file {index} of disk `{disk}` holds {actual} bytes, but {stated} were stated (a multiple of 512 is needed)"
    )]
    Backing {
        /// Serial number of the disk.
        disk: &'static str,
        /// Position among the disk's files.
        index: usize,
        /// Bytes in the file.
        actual: u64,
        /// Bytes that the caller stated.
        stated: u64,
    },
    /// A file can't be there, or none is.
    #[error("disk `{disk}` can't have a file put at, or taken from, byte {start}")]
    Place {
        /// Serial number of the disk.
        disk: &'static str,
        /// Where on the disk.
        start: u64,
    },
    /// A disk grew beyond what can be addressed.
    #[error("disk `{disk}` is larger than can be addressed")]
    DiskTooLarge {
        /// Serial number of the disk.
        disk: &'static str,
    },
    /// A file behind a disk could not be examined.
    #[error("file {index} of disk `{disk}` can't be examined")]
    Examine {
        /// Serial number of the disk.
        disk: &'static str,
        /// Position among the disk's files.
        index: usize,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A saved state contradicts the devices of this build; the bake it came from is damaged or foreign.
    #[error("the saved state of {device} is not valid: {reason}; make the bake anew")]
    State {
        /// The device.
        device: &'static str,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The state was asked for while workers could still change it.
    #[error("device state can be saved only after the devices are quiesced")]
    Running,
    /// The state was asked for while connections were open.
    #[error("device state can't be saved with {open} connections to the guest open; close them first")]
    Connected {
        /// How many.
        open: usize,
    },
    /// There is no such network card.
    #[error("there is no network card {number}: a machine has {cards}, counted from 0")]
    NoCard {
        /// What was named.
        number: usize,
        /// How many there are.
        cards: usize,
    },
    /// The network card has its tap, and can neither have another nor be saved with it.
    #[error("the network card is connected already")]
    Attached,
    /// The guest has mounted the host's files, which it would have to mount again.
    #[error("device state can't be saved once the guest has mounted files of the host")]
    Mounted,
    /// No more connections fit.
    #[error("the guest already has {limit} connections, the most that are allowed; close some first")]
    TooManyConnections {
        /// The limit.
        limit: usize,
    },
}
