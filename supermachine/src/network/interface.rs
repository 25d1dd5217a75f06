//! The interface of a network namespace, and what belongs to it.

use std::collections::HashSet;
use std::net::IpAddr;

use agent_proto::{ConfigureNetworkRequest, InterfaceAddress, Route};
use futures::TryStreamExt as _;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, LinkUnspec};

use super::error::{NetworkError, at, in_words};
use super::tap;

/// How IPv6 addresses begin that are for one link (RFC 4291, 2.5.6).
const LINK_LOCAL: [u8; 2] = [0xfe, 0x80];

/// Index of the loopback interface, in every namespace.
pub(super) const LOOPBACK: u32 = 1;

/// An interface to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac_address: Vec<u8>,
    /// In bytes.
    pub(super) mtu: u32,
}

/// What there is in a namespace.
pub(super) struct Links {
    /// Interfaces to connect. Those that aren't up don't count, and neither do those without Ethernet frames: kernels put
    /// some of both into every namespace.
    pub(super) wired: Vec<Interface>,
    /// The indices of all interfaces.
    pub(super) present: HashSet<u32>,
    /// Whether a VM has taps there.
    pub(super) has_tap: bool,
}

/// Lists the interfaces of a namespace.
pub(super) async fn list(handle: &Handle) -> Result<Links, NetworkError> {
    let links: Vec<LinkMessage> =
        handle.link().get().execute().try_collect().await.map_err(|error| NetworkError::List(in_words(error)))?;
    let (taps, wired): (Vec<_>, Vec<_>) =
        links.iter().filter(|link| is_wired(link)).map(interface).partition(|interface| tap::is_ours(&interface.name));
    let present = links.iter().map(|link| link.header.index).collect();
    Ok(Links { wired, present, has_tap: !taps.is_empty() })
}

/// Brings up the namespace's loopback interface, as a container's is.
pub(super) async fn raise_loopback(handle: &Handle) -> Result<(), rtnetlink::Error> {
    let up = LinkUnspec::new_with_index(LOOPBACK).up().build();
    handle.link().set(up).execute().await
}

fn is_wired(link: &LinkMessage) -> bool {
    link.header.link_layer_type == LinkLayerType::Ether && link.header.flags.contains(LinkFlags::Up)
}

fn interface(link: &LinkMessage) -> Interface {
    let mut interface = Interface { index: link.header.index, name: String::new(), mac_address: Vec::new(), mtu: 1500 };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Address(address) => interface.mac_address.clone_from(address),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            _ => {}
        }
    }
    interface
}

/// Describes it for the guest, with its addresses and routes.
pub(super) async fn describe(
    handle: &Handle,
    interface: &Interface,
    card: usize,
) -> Result<ConfigureNetworkRequest, NetworkError> {
    let (index, name) = (interface.index, &interface.name);
    let addresses: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .map_err(at("read the addresses of", name))?;
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut every = RouteMessage::default();
        every.header.address_family = family;
        let listed: Vec<RouteMessage> =
            handle.route().get(every).execute().try_collect().await.map_err(at("read the routes of", name))?;
        routes.extend(listed.iter().filter_map(|message| route(message, index)));
    }
    let (ipv6, mut addresses) = (has_ipv6(name), addresses.iter().filter_map(address).collect::<Vec<_>>());
    // It appears some moments after the interface is up.
    if ipv6 && !addresses.iter().any(|address| address.address.starts_with(&LINK_LOCAL)) {
        addresses.extend(link_local(&interface.mac_address));
    }
    Ok(ConfigureNetworkRequest {
        name: name.clone(),
        mac_address: interface.mac_address.clone(),
        mtu: interface.mtu,
        ipv6,
        addresses,
        routes,
        card: u32::try_from(card).unwrap_or(u32::MAX),
        ..Default::default()
    })
}

/// Whether IPv6 is on for an interface of this thread's namespace.
fn has_ipv6(name: &str) -> bool {
    let disabled = std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
    disabled.is_ok_and(|disabled| disabled.trim_end() == "0")
}

fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut local, mut address, mut broadcast) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Broadcast(found) => broadcast = Some(*found),
            _ => {}
        }
    }
    // With two, the second is the other end's (rtnetlink(7), IFA_ADDRESS).
    let own = local.or(address)?;
    let peer = address.filter(|peer| *peer != own);
    Some(InterfaceAddress {
        address: bytes(own),
        prefix_length: message.header.prefix_len.into(),
        peer: peer.map(bytes).unwrap_or_default(),
        broadcast: broadcast.map(|broadcast| broadcast.octets().to_vec()).unwrap_or_default(),
        scope: u8::from(message.header.scope).into(),
        ..Default::default()
    })
}

/// What the kernel makes of a MAC address (RFC 4291, appendix A).
fn link_local(mac_address: &[u8]) -> Option<InterfaceAddress> {
    let [a, b, c, d, e, f] = *<&[u8; 6]>::try_from(mac_address).ok()?;
    let address = [&LINK_LOCAL[..], &[0; 6], &[a ^ 2, b, c, 0xff, 0xfe, d, e, f]].concat();
    Some(InterfaceAddress {
        address,
        prefix_length: 64,
        scope: u8::from(AddressScope::Link).into(),
        ..Default::default()
    })
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A route of the main table through the interface. The guest's kernel makes some itself, as this one did, and hears
/// what routers announce.
fn route(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast || is_made(message) {
        return None;
    }
    let everything = match header.address_family {
        AddressFamily::Inet => vec![0; 4],
        _ => vec![0; 16],
    };
    let mut route = Route {
        destination: everything,
        prefix_length: header.destination_prefix_length.into(),
        gateway_on_link: header.flags.contains(RouteFlags::Onlink),
        scope: u8::from(header.scope).into(),
        protocol: u8::from(header.protocol).into(),
        ..Default::default()
    };
    let mut through = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.destination = octets(address)?,
            RouteAttribute::Gateway(address) => route.gateway = octets(address)?,
            RouteAttribute::PrefSource(address) => route.source = octets(address)?,
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Oif(index) => through = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
                route.mtu = mtu.unwrap_or_default();
            }
            _ => {}
        }
    }
    (through == Some(index)).then_some(route)
}

/// Whether a kernel makes the route itself.
pub(super) fn is_made(message: &RouteMessage) -> bool {
    matches!(message.header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra | RouteProtocol::IcmpRedirect)
}

fn octets(address: &RouteAddress) -> Option<Vec<u8>> {
    match address {
        RouteAddress::Inet(address) => Some(address.octets().to_vec()),
        RouteAddress::Inet6(address) => Some(address.octets().to_vec()),
        _ => None,
    }
}
