//! What the host wants, in the kernel's words.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use agent_proto::{ConfigureNetworkRequest, InterfaceAddress, Route};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::NetworkError;

/// Name, address and MTU of an interface.
pub(super) fn dress(index: u32, wanted: &ConfigureNetworkRequest) -> Result<RouteNetlinkMessage, NetworkError> {
    if wanted.mac_address.len() != 6 {
        return Err(NetworkError::NoAddress { field: "mac_address", value: wanted.mac_address.clone() });
    }
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::IfName(wanted.name.clone()),
        LinkAttribute::Address(wanted.mac_address.clone()),
        LinkAttribute::Mtu(wanted.mtu),
    ];
    Ok(RouteNetlinkMessage::SetLink(message))
}

/// An interface's move to another namespace, where it is called that.
pub(super) fn hand_over(index: u32, namespace: &File, name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::NetNsFd(namespace.as_raw_fd()), LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::SetLink(message)
}

/// A question about the interface of that name.
pub(super) fn look_for(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::GetLink(message)
}

/// An interface's IPv6 addresses are given to it, and none made of what it was baked with.
pub(super) fn make_no_addresses(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![none])];
    RouteNetlinkMessage::SetLink(message)
}

/// A question about an interface.
pub(super) fn look(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    RouteNetlinkMessage::GetLink(message)
}

/// An interface's bringing up.
pub(super) fn raise(index: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// An address of an interface, which nobody is asked about: it was given to this machine.
pub(super) fn address(index: u32, wanted: &InterfaceAddress) -> Result<AddressMessage, NetworkError> {
    let own = ip("address", &wanted.address)?;
    let peer = if wanted.peer.is_empty() { own } else { ip("peer", &wanted.peer)? };
    let mut message = AddressMessage::default();
    message.header.family = family(own);
    message.header.index = index;
    message.header.prefix_len = u8::try_from(wanted.prefix_length).unwrap_or(u8::MAX);
    message.header.scope = u8::try_from(wanted.scope).unwrap_or_default().into();
    message.attributes = vec![AddressAttribute::Local(own), AddressAttribute::Address(peer)];
    if own.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    if let Ok(octets) = <[u8; 4]>::try_from(wanted.broadcast.as_slice()) {
        message.attributes.push(AddressAttribute::Broadcast(octets.into()));
    }
    Ok(message)
}

/// A route through an interface.
pub(super) fn route(index: u32, wanted: &Route) -> Result<RouteMessage, NetworkError> {
    let destination = ip("destination", &wanted.destination)?;
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = u8::try_from(wanted.prefix_length).unwrap_or(u8::MAX);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.kind = RouteType::Unicast;
    message.header.scope = u8::try_from(wanted.scope).unwrap_or_default().into();
    message.header.protocol = u8::try_from(wanted.protocol).unwrap_or_default().into();
    if wanted.gateway_on_link {
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(destination)), RouteAttribute::Oif(index)];
    if !wanted.gateway.is_empty() {
        message.attributes.push(RouteAttribute::Gateway(ip("gateway", &wanted.gateway)?.into()));
    }
    if !wanted.source.is_empty() {
        message.attributes.push(RouteAttribute::PrefSource(ip("source", &wanted.source)?.into()));
    }
    if wanted.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(wanted.metric));
    }
    if wanted.mtu != 0 {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(wanted.mtu)]));
    }
    Ok(message)
}

fn ip(field: &'static str, octets: &[u8]) -> Result<IpAddr, NetworkError> {
    let four = || <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    four().or_else(|_| sixteen()).map_err(|_length| NetworkError::NoAddress { field, value: octets.to_vec() })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
