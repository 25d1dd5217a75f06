//! The network namespaces of a machine, all of which are in a bake. Containers that have a network when they are made
//! join one with the first card; others have that of the agent, which shows a loopback interface and no more, as a
//! container without a network does. The further cards are in a third, where nobody is, until they are needed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::mount::mount_bind;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::messages;
use super::netlink::Netlink;
use crate::namespace;
use crate::sys;

/// The handle of the namespace of containers with a network.
pub(super) const NAMESPACE: &str = "/run/supermachine/network";
const DEVICES: &str = "/sys/bus/virtio/devices";
/// What a network card has in its device's file `device` (virtio 1.3 §5).
const CARD: &str = "0x0001";
/// Whether interfaces look for others that have their addresses. The host has seen to that.
const ACCEPT_DAD: &str = "/proc/sys/net/ipv6/conf/default/accept_dad";

/// A network namespace.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) netlink: Netlink,
    pub(super) handle: File,
}

/// The namespaces.
#[derive(Debug)]
pub(super) struct Rooms {
    /// The agent's own.
    pub(super) own: Room,
    /// The one that containers with a network join.
    pub(super) apart: Room,
    /// The one of cards that nobody uses.
    pub(super) reserve: Room,
}

/// A machine's cards as they are in a bake: the first apart, the others in reserve.
#[derive(Debug)]
pub(crate) struct Cards {
    pub(super) rooms: Rooms,
    /// The indices of their interfaces.
    pub(super) indices: Vec<u32>,
}

/// Makes the namespaces, with the cards in them; nothing if there are none. Must run before the process has a second
/// thread.
pub(crate) fn set_apart() -> io::Result<Option<Cards>> {
    let mut indices = find()?;
    if indices.is_empty() {
        return Ok(None);
    }
    let own = Room::here()?;
    sys::unshare(libc::CLONE_NEWNET)?;
    let apart = Room::here()?;
    furnish()?;
    sys::unshare(libc::CLONE_NEWNET)?;
    let reserve = Room::here()?;
    for (number, index) in (0..).zip(&mut indices) {
        let (room, name) = if number == 0 { (&apart, "eth0".to_owned()) } else { (&reserve, reserved(number)) };
        own.netlink.ask(messages::hand_over(*index, &room.handle, &name))?;
        *index = room.netlink.index_of(&name)?;
    }
    // Without a link as yet. That the driver fills its queue takes longer than all that is done after a restore.
    apart.raise(indices[0])?;
    move_into_link_name_space(own.handle.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(Some(Cards { rooms: Rooms { own, apart, reserve }, indices }))
}

/// What a card is called in reserve.
pub(super) fn reserved(number: u32) -> String {
    format!("card{number}")
}

impl Room {
    /// That of this thread.
    pub(super) fn here() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, handle: File::open("/proc/thread-self/ns/net")? })
    }

    /// Brings up an interface that gets no address but those that it is given.
    pub(super) fn raise(&self, index: u32) -> io::Result<()> {
        // A kernel without IPv6 refuses, and makes no addresses.
        let _without_ipv6 = self.netlink.ask(messages::make_no_addresses(index));
        self.netlink.ask(messages::raise(index))
    }

    /// Works in the namespace, in a thread that ends with it.
    pub(super) fn inside(&self, work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
        namespace::inside(self.handle.as_fd(), LinkNameSpaceType::Network, work)
    }
}

/// Gives this process's new namespace a name and a loopback interface.
fn furnish() -> io::Result<()> {
    if let Some(folder) = Path::new(NAMESPACE).parent() {
        fs::create_dir_all(folder)?;
    }
    File::create(NAMESPACE)?;
    mount_bind("/proc/self/ns/net", NAMESPACE)?;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sys::raise_loopback(socket.as_fd())?;
    if Path::new(ACCEPT_DAD).exists() {
        fs::write(ACCEPT_DAD, "0")?;
    }
    Ok(())
}

/// The indices of the cards' interfaces, in the order of the addresses that they are baked with.
fn find() -> io::Result<Vec<u32>> {
    let devices = fs::read_dir(DEVICES).into_iter().flatten().flatten().map(|device| device.path());
    let is_card =
        |device: &PathBuf| fs::read_to_string(device.join("device")).is_ok_and(|kind| kind.trim_end() == CARD);
    let mut found = Vec::new();
    for card in devices.filter(is_card) {
        let interface = fs::read_dir(card.join("net"))?.next().ok_or(io::ErrorKind::NotFound)??.path();
        let index = fs::read_to_string(interface.join("ifindex"))?;
        let index: u32 = index.trim_end().parse().map_err(io::Error::other)?;
        found.push((fs::read_to_string(interface.join("address"))?, index));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, index)| index).collect())
}
