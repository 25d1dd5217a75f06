//! What the kernel makes of the requests, in network namespaces of threads of their own, whose one interface is `lo`.

use std::fs::read_to_string;

use agent_proto::{InterfaceAddress, Route};

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
                netlink.ask(messages::address(LOOPBACK, &address).unwrap()).unwrap();
            }
            let far = Route { metric: 7, ..route(&[10, 8, 0, 0], 16, &[]) };
            for route in [route(&[0; 4], 0, &[10, 9, 0, 1]), route(&[0; 16], 0, &[]), far] {
                netlink.ask(messages::route(LOOPBACK, &route).unwrap()).unwrap();
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
