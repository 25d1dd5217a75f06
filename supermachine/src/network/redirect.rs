//! Joins two interfaces: whatever arrives at one leaves through the other (tc-mirred(8)).

use rtnetlink::Handle;

use super::error::{NetworkError, at, exists};
use super::interface::Interface;

/// `ETH_P_ALL` of `linux/if_ether.h`, in network order: every protocol.
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();

/// Joins an interface and a tap, both ways.
pub(super) async fn join(handle: &Handle, interface: &Interface, tap: u32) -> Result<(), NetworkError> {
    let name = &interface.name;
    redirect(handle, tap, interface.index).await.map_err(at("redirect the guest's packets to", name))?;
    redirect(handle, interface.index, tap).await.map_err(at("redirect packets of", name))
}

/// Sends what arrives at one interface out through the other, before this kernel looks at it.
async fn redirect(handle: &Handle, from: u32, to: u32) -> Result<(), rtnetlink::Error> {
    let index = i32::try_from(from).unwrap_or_default();
    let queue = || handle.qdisc().add(index).ingress().execute();
    match queue().await {
        // Of a VM before this one: the tap that it led to is gone, as there can be one only.
        Err(error) if exists(&error) => {
            let mut old = handle.qdisc().del(index);
            old.message_mut().header.parent = netlink_packet_route::tc::TcHandle::INGRESS;
            old.execute().await?;
            queue().await?;
        }
        made => made?,
    }
    let filter = handle.traffic_filter(index).add().ingress().protocol(EVERY_PROTOCOL);
    filter.redirect(to)?.execute().await
}
