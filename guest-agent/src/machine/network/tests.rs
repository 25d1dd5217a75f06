//! What the kernel makes of the requests, in network namespaces of threads of their own, whose one interface is `lo`.

use std::fs::read_to_string;

use agent_proto::{InterfaceAddress, Route};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::netlink::outcome;
use super::*;

const LOOPBACK: u32 = 1;

/// Runs a test in a new network namespace, for which it takes root.
fn alone(test: impl FnOnce(Netlink) + Send + 'static) {
    let run = || match crate::sys::unshare(libc::CLONE_NEWNET) {
        Err(error) => eprintln!("no namespace can be made: {error}"),
        Ok(()) => test(Netlink::open().unwrap()),
    };
    std::thread::spawn(run).join().unwrap();
}

fn address(address: &[u8], prefix_length: u32) -> InterfaceAddress {
    InterfaceAddress { address: address.to_vec(), prefix_length, ..Default::default() }
}

fn route(destination: &[u8], prefix_length: u32, gateway: &[u8]) -> Route {
    let (destination, gateway) = (destination.to_vec(), gateway.to_vec());
    Route { destination, prefix_length, gateway, protocol: 3, ..Default::default() }
}

#[test]
fn an_interface_is_set_up_again_and_again() {
    alone(|netlink| {
        let own = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let wanted = ConfigureNetworkRequest {
            name: "lo".to_owned(),
            mac_address: vec![2, 0, 0, 0, 0, 9],
            mtu: 1400,
            ..Default::default()
        };
        assert!(!netlink.is_running(LOOPBACK).unwrap());
        for _ in 0..2 {
            netlink.ask(messages::dress(LOOPBACK, &wanted).unwrap()).unwrap();
            netlink.ask(messages::raise(LOOPBACK)).unwrap();
            for address in [address(&[10, 9, 0, 2], 24), address(&own, 64)] {
                netlink.ask(RouteNetlinkMessage::NewAddress(messages::address(LOOPBACK, &address).unwrap())).unwrap();
            }
            let far = Route { metric: 7, ..route(&[10, 8, 0, 0], 16, &[]) };
            for route in [route(&[0; 4], 0, &[10, 9, 0, 1]), route(&[0; 16], 0, &[]), far] {
                netlink.ask(RouteNetlinkMessage::NewRoute(messages::route(LOOPBACK, &route).unwrap())).unwrap();
            }
        }
        assert!(netlink.is_running(LOOPBACK).unwrap());
        let routes = read_to_string("/proc/thread-self/net/route").unwrap();
        let routes: Vec<Vec<&str>> = routes.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        // Destination, gateway and mask in the processor's order of bytes, as hexadecimal numbers.
        assert!(routes.iter().any(|r| r[1..3] == ["00000000", "0100090A"] && r[7] == "00000000"), "{routes:?}");
        assert!(routes.iter().any(|r| r[1] == "0000080A" && r[6] == "7" && r[7] == "0000FFFF"), "{routes:?}");
        assert_eq!(routes.len(), 2, "{routes:?}");
        let addresses = read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        // Permanent and without a search for others that have it.
        assert!(addresses.contains("fd000000000000000000000000000002 01 40 00 82"), "{addresses}");
    });
}

#[test]
fn what_an_interface_is_not_to_have_any_more_goes() {
    alone(|netlink| {
        let room = Room { netlink, handle: std::fs::File::open("/proc/thread-self/ns/net").unwrap() };
        room.netlink.ask(messages::raise(LOOPBACK)).unwrap();
        let before = ConfigureNetworkRequest {
            addresses: vec![address(&[10, 9, 0, 2], 24), address(&[10, 9, 0, 3], 24)],
            routes: vec![route(&[10, 8, 0, 0], 16, &[10, 9, 0, 1]), route(&[10, 7, 0, 0], 16, &[10, 9, 0, 1])],
            ..Default::default()
        };
        give(&room, LOOPBACK, &before).unwrap();
        // With the first goes the second, and the routes.
        let after = ConfigureNetworkRequest {
            addresses: before.addresses[1..].to_vec(),
            routes: before.routes[1..].to_vec(),
            ..Default::default()
        };
        take_away(&room, LOOPBACK, &before, &after).unwrap();
        give(&room, LOOPBACK, &after).unwrap();
        let routes = read_to_string("/proc/thread-self/net/route").unwrap();
        assert!(routes.contains("0000070A") && !routes.contains("0000080A"), "{routes}");
        let trie = read_to_string("/proc/thread-self/net/fib_trie").unwrap();
        assert!(trie.contains("10.9.0.3") && !trie.contains("10.9.0.2\n"), "{trie}");
        // It may be gone already.
        take_away(&room, LOOPBACK, &before, &after).unwrap();
    });
}

#[test]
fn a_card_is_moved_and_found_by_its_name() {
    alone(|netlink| {
        let here = Room { netlink, handle: std::fs::File::open("/proc/thread-self/ns/net").unwrap() };
        let mut message = LinkMessage::default();
        let one_of_two = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        message.attributes = vec![LinkAttribute::IfName("card1".to_owned()), one_of_two];
        here.netlink.ask(RouteNetlinkMessage::NewLink(message)).unwrap();
        let index = here.netlink.index_of("card1").unwrap();
        let mut card = Card { index, home: None, given: None };
        let there = std::thread::spawn(|| {
            crate::sys::unshare(libc::CLONE_NEWNET).unwrap();
            Room::here().unwrap()
        });
        let there = there.join().unwrap();
        here.hand_over(&mut card, &there, "eth7").unwrap();
        assert_eq!(there.netlink.index_of("eth7").unwrap(), card.index);
        assert_eq!(here.netlink.index_of("card1").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        there.raise(card.index).unwrap();
    });
}

#[test]
fn what_makes_no_sense_is_named() {
    alone(|netlink| {
        let error = netlink.ask(messages::raise(77)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(netlink.is_running(77).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    });
    let error = messages::address(LOOPBACK, &address(&[1, 2, 3], 8)).unwrap_err();
    assert!(error.to_string().starts_with("address: [1, 2, 3]"), "{error}");
    let error = messages::dress(LOOPBACK, &ConfigureNetworkRequest::default()).unwrap_err();
    assert!(error.to_string().starts_with("mac_address"), "{error}");
}

#[test]
fn half_an_answer_is_no_acknowledgement() {
    let mut answer = vec![0; 36];
    answer[4] = 2;
    assert!(outcome(&answer).is_ok());
    assert!(outcome(&answer[..19]).is_err());
    answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
    assert_eq!(outcome(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
}
