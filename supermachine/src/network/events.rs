//! What the kernel tells of changes in a network namespace.

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt as _, StreamExt as _};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::RouteHeader;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::SocketAddr;

use super::error::NetworkError;
use super::interface::{LOOPBACK, is_made};
use super::tap;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// Changes of interfaces, their addresses and routes, from the moment on that this is made.
pub(super) struct Events(UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl Events {
    /// Subscribes to those of this thread's network namespace.
    pub(super) fn subscribe() -> Result<Self, NetworkError> {
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS).map_err(NetworkError::Thread)?;
        tokio::spawn(connection);
        Ok(Self(messages))
    }

    /// Returns when something has changed since the last call, or may have. What is known by then is out of date.
    pub(super) async fn changed(&mut self) -> Result<(), NetworkError> {
        loop {
            match self.0.next().await {
                Some((message, _)) if matters(&message) => break,
                Some(_) => {}
                // The kernel had more to tell than there was room for, and the connection has ended.
                None => {
                    *self = Self::subscribe()?;
                    return Ok(());
                }
            }
        }
        // What comes with it is looked at with it.
        while let Some(Some(_)) = self.0.next().now_or_never() {}
        Ok(())
    }
}

/// Whether something of what the guest is shown has changed. Bringing up its network causes none of that.
fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return false };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            let is_tap =
                |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if tap::is_ours(name));
            link.header.index != LOOPBACK && !link.attributes.iter().any(is_tap)
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            address.header.index != LOOPBACK
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.header.table == RouteHeader::RT_TABLE_MAIN && !is_made(route)
        }
        _ => false,
    }
}
