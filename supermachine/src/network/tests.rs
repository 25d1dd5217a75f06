//! With real interfaces, in namespaces of the tests' own.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteScope;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::namespace::Namespace;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A namespace of a container, and one for what is outside.
async fn namespaces() -> Option<[File; 2]> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: no namespace can be made");
        return None;
    }
    let [one, two] = [Namespace::begin().unwrap(), Namespace::begin().unwrap()];
    Some([one.made().await.unwrap(), two.made().await.unwrap()])
}

fn twin(namespace: &File) -> File {
    namespace.try_clone().unwrap()
}

async fn link(handle: &Handle, name: &str) -> LinkMessage {
    handle.link().get().match_name(name.to_owned()).execute().try_next().await.unwrap().unwrap()
}

async fn raise(handle: &Handle, name: &str, address: Ipv4Addr) -> u32 {
    let index = link(handle, name).await.header.index;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.unwrap();
    handle.address().add(index, address.into(), 24).execute().await.unwrap();
    index
}

/// Does as a CNI plugin for a bridge: `eth0` inside with an address and a default route, its other end outside.
async fn set_up(container: &File, outside: &File) {
    let there = twin(outside);
    inside(twin(container), async move |handle: &Handle| {
        handle.link().add(LinkVeth::new("eth0", "outside").build()).execute().await.unwrap();
        let other = link(handle, "outside").await.header.index;
        let moved = LinkUnspec::new_with_index(other).setns_by_fd(std::os::fd::AsRawFd::as_raw_fd(&there));
        handle.link().set(moved.build()).execute().await.unwrap();
        let eth0 = link(handle, "eth0").await.header.index;
        let change = LinkUnspec::new_with_index(eth0).address(MAC.to_vec()).mtu(1400);
        handle.link().set(change.build()).execute().await.unwrap();
        raise(handle, "eth0", OWN).await;
        Ok(())
    })
    .await
    .unwrap();
    inside(twin(outside), async |handle: &Handle| {
        raise(handle, "outside", GATEWAY).await;
        Ok(())
    })
    .await
    .unwrap();
    inside(twin(container), async |handle: &Handle| {
        let eth0 = link(handle, "eth0").await.header.index;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).build();
        handle.route().add(default).execute().await.unwrap();
        let metadata = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(169, 254, 1, 1), 32)
            .output_interface(eth0)
            .scope(RouteScope::Link)
            .priority(7);
        handle.route().add(metadata.build()).execute().await.unwrap();
        Ok(())
    })
    .await
    .unwrap();
}

/// An ARP request for the gateway, as the guest's kernel would send it, after the header of the tap's frames.
fn question() -> Vec<u8> {
    let mut frame = vec![0; 10];
    frame.extend([[0xff; 6], MAC].concat());
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend(OWN.octets());
    frame.extend([0; 6]);
    frame.extend(GATEWAY.octets());
    frame
}

/// What the tap brings, up to an ARP reply.
fn answer(tap: &mut File) -> Vec<u8> {
    loop {
        let mut frame = vec![0; 2000];
        let within = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&*tap, PollFlags::IN)], Some(&within)).unwrap(), 1, "no answer");
        let bytes = tap.read(&mut frame).unwrap();
        if frame[22..24] == [8, 6] && frame[30..32] == [0, 2] {
            frame.truncate(bytes);
            return frame;
        }
    }
}

#[tokio::test]
async fn a_guest_speaks_through_the_interface() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let wire = connect(twin(&container)).await.unwrap().unwrap();
    let mut tap = File::from(wire.tap);
    tap.write_all(&question()).unwrap();
    let answer = answer(&mut tap);
    assert_eq!(answer[10..16], MAC, "the answer is for the guest");
    assert_eq!(answer[38..42], GATEWAY.octets(), "the answer is the gateway's");
}

#[tokio::test]
async fn the_guest_is_told_what_the_interface_has() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let told = connect(twin(&container)).await.unwrap().unwrap().interface;
    assert_eq!((told.name.as_str(), told.mac_address.as_slice(), told.mtu), ("eth0", &MAC[..], 1400));
    let link = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 9];
    let has_link = told.addresses.iter().any(|address| address.address == link && address.prefix_length == 64);
    assert_eq!(has_link, told.ipv6, "{:?}", told.addresses);
    let address = &told.addresses[0];
    assert_eq!((address.address.as_slice(), address.prefix_length), (&OWN.octets()[..], 24));
    assert!(address.peer.is_empty());
    let [metadata, default] = told.routes.as_slice() else { panic!("other routes: {:?}", told.routes) };
    let (metadata, default) = if metadata.prefix_length == 32 { (metadata, default) } else { (default, metadata) };
    assert_eq!((metadata.destination.as_slice(), metadata.scope, metadata.metric), (&[169, 254, 1, 1][..], 253, 7));
    assert_eq!((default.destination.as_slice(), default.prefix_length), (&[0; 4][..], 0));
    assert_eq!(default.gateway, GATEWAY.octets());
}

#[tokio::test]
async fn one_guest_after_the_other_has_an_interface() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let first = connect(twin(&container)).await.unwrap().unwrap();
    let second = connect(twin(&container)).await.unwrap_err();
    assert!(matches!(&second, NetworkError::Taken { interface } if interface == "eth0"), "{second}");
    drop(first);
    let wire = connect(twin(&container)).await.unwrap().unwrap();
    let mut tap = File::from(wire.tap);
    tap.write_all(&question()).unwrap();
    answer(&mut tap);
}

#[tokio::test]
async fn other_namespaces_are_left_alone_or_refused() {
    let Some([empty, several]) = namespaces().await else { return };
    assert!(connect(empty).await.unwrap().is_none());
    inside(twin(&several), async |handle: &Handle| {
        for (name, other) in [("one", "two"), ("down", "its-end")] {
            handle.link().add(LinkVeth::new(name, other).build()).execute().await.unwrap();
        }
        raise(handle, "one", OWN).await;
        raise(handle, "two", GATEWAY).await;
        Ok(())
    })
    .await
    .unwrap();
    let error = connect(several).await.unwrap_err();
    assert!(matches!(&error, NetworkError::Several { names } if names.len() == 2), "{error}");
    assert!(error.to_string().contains("one") && error.to_string().contains("two"), "{error}");
    let own = File::open("/proc/self/ns/net").unwrap();
    assert!(matches!(connect(own).await, Err(NetworkError::Own)));
}
