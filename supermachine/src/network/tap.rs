//! The guest's end of the wire.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use futures::TryStreamExt as _;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec};
use rustix::io::ioctl_fionbio;
use tun_rs::{DeviceBuilder, Layer};

/// What it is called in the namespace, with the number of the card at its end unless that is the first.
const NAME: &str = "supermachine";

fn name(card: usize) -> String {
    if card == 0 { NAME.to_owned() } else { format!("{NAME}{card}") }
}

/// Whether an interface is the tap of a VM.
pub(super) fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Makes a tap device in this thread's network namespace, opened without waiting, whose frames carry a header that says
/// what is left to do about checksums and segments. Another's is busy.
pub(super) fn create(card: usize) -> io::Result<OwnedFd> {
    let device = DeviceBuilder::new().name(name(card)).layer(Layer::L2).offload(true).build_sync()?;
    let tap = device.as_fd().try_clone_to_owned()?;
    ioctl_fionbio(&tap, true)?;
    Ok(tap)
}

/// Brings it up as a mere wire, without addresses, for packets of up to `mtu` bytes; returns its index.
pub(super) async fn raise(handle: &Handle, card: usize, mtu: u32) -> Result<u32, rtnetlink::Error> {
    let found = handle.link().get().match_name(name(card)).execute().try_next().await?;
    let index = found.ok_or(rtnetlink::Error::RequestFailed)?.header.index;
    let none = vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)])];
    let silent = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(none));
    // A kernel without IPv6 refuses, and has nothing to be silent about.
    let _without_ipv6 = handle.link().set(silent.build()).execute().await;
    handle.link().set(LinkUnspec::new_with_index(index).mtu(mtu).up().build()).execute().await?;
    Ok(index)
}
