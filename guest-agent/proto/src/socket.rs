//! How a process in the guest reaches a unix socket of the host, although only the host can open connections: for each
//! socket it keeps one connection to the socket port waiting. The connection names the socket first; the agent writes
//! [`CALLED`] to it once a process has connected to the socket's likeness in the guest; the host connects to the socket
//! itself and writes [`ANSWERED`]. From there on it carries what the two say. Either side closes it where the other would
//! wait in vain.

use std::net::Ipv4Addr;

/// Where Docker has a name server in a container's network namespace (its resolv.conf says so), for TCP and UDP at port 53.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Directory of the guest in which the likenesses of the host's sockets are, each by a name that the host chose.
pub const SOCKETS: &str = "/run/supermachine/sockets";
/// Port on which the agent takes connections that wait for a process to connect to a socket.
pub const SOCKET_PORT: u32 = 1027;
/// What the agent writes when a process has connected.
pub const CALLED: u8 = 1;
/// What the host writes when it has reached the socket for it.
pub const ANSWERED: u8 = 1;
/// Length of a socket's name as it travels.
pub const SOCKET_NAME_BYTES: usize = 256;

/// A name as it travels: filled up with zeros, of which there is at least one. None if it doesn't fit, or isn't one.
pub fn encode_socket_name(name: &str) -> Option<[u8; SOCKET_NAME_BYTES]> {
    if name.is_empty() || name.contains('\0') {
        return None;
    }
    let mut bytes = [0; SOCKET_NAME_BYTES];
    bytes[..SOCKET_NAME_BYTES - 1].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    Some(bytes)
}

/// The name that travelled.
pub fn decode_socket_name(bytes: &[u8; SOCKET_NAME_BYTES]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    bytes.get(..end).and_then(|name| std::str::from_utf8(name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_arrives_as_it_was_sent() {
        for name in ["c.0", &"x".repeat(SOCKET_NAME_BYTES - 1)] {
            assert_eq!(decode_socket_name(&encode_socket_name(name).unwrap()), Some(name));
        }
        for name in ["", "a\0", &"x".repeat(SOCKET_NAME_BYTES)] {
            assert_eq!(encode_socket_name(name), None, "{name:?}");
        }
        assert_eq!(decode_socket_name(&[b'x'; SOCKET_NAME_BYTES]), None);
        assert_eq!(decode_socket_name(&[0xff; SOCKET_NAME_BYTES]), None);
    }
}
