//! A network namespace with the machine's card, for containers that have a network. Others have that of the agent, which
//! shows a loopback interface and no more, as a container without a network does. Both are in a bake: a container joins
//! one or the other.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::mount::mount_bind;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::messages;
use super::netlink::Netlink;
use crate::sys;

/// The namespace's handle.
pub(super) const NAMESPACE: &str = "/run/supermachine/network";
const DEVICES: &str = "/sys/bus/virtio/devices";
/// What a network card has in its device's file `device` (virtio 1.3 §5).
const CARD: &str = "0x0001";
/// Whether interfaces look for others that have their addresses. The host has seen to that.
const ACCEPT_DAD: &str = "/proc/sys/net/ipv6/conf/default/accept_dad";

/// The card, in its namespace.
#[derive(Debug)]
pub(crate) struct Card {
    pub(super) netlink: Netlink,
    /// Of its interface.
    pub(super) index: u32,
}

/// Makes the namespace, with the card in it; nothing if there is none. Must run before the process has a second thread.
pub(crate) fn set_apart() -> io::Result<Option<Card>> {
    let Some(index) = find()? else { return Ok(None) };
    let (own, here) = (File::open("/proc/self/ns/net")?, Netlink::open()?);
    sys::unshare(libc::CLONE_NEWNET)?;
    let netlink = furnish()?;
    // Its index stays: there it is the first after the loopback interface's, too.
    here.ask(messages::hand_over(index, &File::open(NAMESPACE)?))?;
    // A kernel without IPv6 refuses, and makes no addresses.
    let _without_ipv6 = netlink.ask(messages::make_no_addresses(index));
    // Without a link as yet. That the driver fills its queue takes longer than all that is done after a restore.
    netlink.ask(messages::raise(index))?;
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(Some(Card { netlink, index }))
}

/// Gives this process's new namespace a name and a loopback interface.
fn furnish() -> io::Result<Netlink> {
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
    Netlink::open()
}

/// The index of the card's interface.
fn find() -> io::Result<Option<u32>> {
    let devices = fs::read_dir(DEVICES).into_iter().flatten().flatten().map(|device| device.path());
    let is_card =
        |device: &PathBuf| fs::read_to_string(device.join("device")).is_ok_and(|kind| kind.trim_end() == CARD);
    let Some(card) = devices.into_iter().find(is_card) else { return Ok(None) };
    let interface = fs::read_dir(card.join("net"))?.next().ok_or(io::ErrorKind::NotFound)??;
    let index = fs::read_to_string(interface.path().join("ifindex"))?;
    index.trim_end().parse().map(Some).map_err(io::Error::other)
}

/// Works in the namespace, in a thread that ends with it.
pub(super) fn inside(work: impl FnOnce() -> io::Result<()> + Send) -> io::Result<()> {
    let enter = || {
        move_into_link_name_space(File::open(NAMESPACE)?.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(enter).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
