//! Joins two interfaces: whatever arrives at one leaves through the other (tc-mirred(8)), but for what a name server of
//! the host is answered that asks others from within the namespace.

use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcFilterU32Option,
    TcMirror, TcMirrorActionType, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use rtnetlink::Handle;

use super::error::{NetworkError, at, exists};
use super::interface::Interface;

/// `ETH_P_ALL` of `linux/if_ether.h`, in network order: every protocol.
const EVERY_PROTOCOL: u16 = 0x0003_u16.to_be();

/// Those of IPv4 and of what finds its neighbours, in network order (`linux/if_ether.h`).
const IPV4: u16 = 0x0800_u16.to_be();
const ARP: u16 = 0x0806_u16.to_be();
/// Numbers of transports (`linux/in.h`).
const TCP: u32 = 6;
const UDP: u32 = 17;
/// Where names are asked for.
const DNS_PORT: u32 = 53;
/// From which port on the host asks: a kernel's own choice ends at 60999, so that a guest's sockets have others.
const ASKING_PORTS: u32 = 0xf000;
/// The setting of a namespace that says so (ip-sysctl.rst).
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Joins an interface and a tap, both ways. If the host asks for names from here, what it is answered stays.
pub(super) async fn join(
    handle: &Handle,
    interface: &Interface,
    tap: u32,
    host_asks: bool,
) -> Result<(), NetworkError> {
    let name = &interface.name;
    redirect(handle, tap, interface.index).await.map_err(at("redirect the guest's packets to", name))?;
    redirect(handle, interface.index, tap).await.map_err(at("redirect packets of", name))?;
    if host_asks {
        keep_answers(handle, interface.index, tap).await.map_err(at("keep answers to the host from", name))?;
    }
    Ok(())
}

/// Has this thread's namespace ask from ports that no guest uses by itself.
pub(super) fn set_asking_ports() -> std::io::Result<()> {
    std::fs::write(PORT_RANGE, format!("{ASKING_PORTS} {}", u16::MAX))
}

/// Leaves answers from name servers to the host's own ports to this kernel, which also has to hear of its neighbours.
async fn keep_answers(handle: &Handle, interface: u32, tap: u32) -> Result<(), rtnetlink::Error> {
    let index = i32::try_from(interface).unwrap_or_default();
    let filter =
        |priority, protocol| handle.traffic_filter(index).add().ingress().priority(priority).protocol(protocol);
    for (priority, transport) in [(1, UDP), (2, TCP)] {
        // The first fragment of a packet whose header has no options: the ports are in the sixth word.
        let words = [
            (0, 0xff00_0000, 0x4500_0000),
            (4, 0x0000_1fff, 0),
            (8, 0x00ff_0000, transport << 16),
            (20, 0xffff_0000 | ASKING_PORTS, DNS_PORT << 16 | ASKING_PORTS),
        ];
        filter(priority, IPV4).u32(&[TcFilterU32Option::Selector(selector(&words))])?.execute().await?;
    }
    let mut copy = TcMirror::default();
    copy.generic.action = TcActionType::Pipe;
    copy.eaction = TcMirrorActionType::EgressMirror;
    copy.ifindex = tap;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(copy))]),
    ];
    let options = [TcFilterU32Option::Selector(selector(&[(0, 0, 0)])), TcFilterU32Option::Action(vec![action])];
    filter(3, ARP).u32(&options)?.execute().await
}

/// Selects packets in which words of the network header have a value: where in bytes, mask and value of each.
fn selector(words: &[(i32, u32, u32)]) -> TcU32Selector {
    let keys = words.iter().map(|(off, mask, val)| {
        let mut key = TcU32Key::default();
        (key.off, key.mask, key.val) = (*off, *mask, *val);
        key
    });
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.keys = keys.collect();
    selector.nkeys = u8::try_from(words.len()).unwrap_or(u8::MAX);
    selector
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
