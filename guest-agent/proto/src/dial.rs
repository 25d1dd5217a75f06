//! How the host reaches what listens in the guest: a connection to the dial port names an address first, and is a
//! connection to that address once a byte has come back.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Port on which the agent takes connections to be carried on to an address in the guest.
pub const DIAL_PORT: u32 = 1026;
/// What the agent writes once it is connected to the address. If nobody listens there, it closes instead.
pub const DIALLED: u8 = 1;
/// Length of an address as it travels.
pub const DIAL_BYTES: usize = 18;

/// An address as it travels: 16 bytes, an IPv4 one as mapped into IPv6 (RFC 4291, 2.5.5.2), and the port, all in network
/// order.
pub fn encode_dial(address: SocketAddr) -> [u8; DIAL_BYTES] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; DIAL_BYTES];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

/// The address that travelled.
pub fn decode_dial(bytes: [u8; DIAL_BYTES]) -> SocketAddr {
    let [ip @ .., high, low] = bytes;
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_arrives_as_it_was_sent() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1]:1", "10.4.0.2:8080"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(decode_dial(encode_dial(address)), address);
        }
        let mapped = "[::ffff:127.0.0.1]:80".parse().unwrap();
        assert_eq!(decode_dial(encode_dial(mapped)), "127.0.0.1:80".parse().unwrap());
        assert_eq!(encode_dial("[::1]:258".parse().unwrap())[14..], [0, 1, 1, 2]);
    }
}
