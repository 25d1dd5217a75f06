//! The network card, which the kernel has only in machines that use it: others show their loopback interface and no
//! more, as a container without a network does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{NetworkError, kernel};

const DEVICES: &str = "/sys/bus/virtio/devices";
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_net";
/// What a network card has in its device's file `device` (virtio 1.3 §5).
const NETWORK: &str = "0x0001";

/// Takes the card away from its driver; no effect if there is none.
pub(crate) fn put_away() -> io::Result<()> {
    match find() {
        Some(card) if card.join("driver").exists() => tell("unbind", &card),
        _ => Ok(()),
    }
}

/// Gives it to its driver, and answers its interface's index.
pub(super) fn take_out() -> Result<u32, NetworkError> {
    let card = find().ok_or(NetworkError::NoCard)?;
    if !card.join("driver").exists() {
        tell("bind", &card).map_err(kernel("take out", "the network card"))?;
    }
    let read = || {
        let interface = fs::read_dir(card.join("net"))?.next().ok_or(io::ErrorKind::NotFound)??;
        let index = fs::read_to_string(interface.path().join("ifindex"))?;
        index.trim_end().parse().map_err(io::Error::other)
    };
    read().map_err(kernel("look for", "the network card's interface"))
}

fn find() -> Option<PathBuf> {
    let devices = fs::read_dir(DEVICES).into_iter().flatten().flatten();
    devices
        .map(|device| device.path())
        .find(|device| fs::read_to_string(device.join("device")).is_ok_and(|kind| kind.trim_end() == NETWORK))
}

fn tell(what: &str, card: &Path) -> io::Result<()> {
    let name = card.file_name().unwrap_or_default();
    fs::write(Path::new(DRIVER).join(what), name.as_encoded_bytes())
}
