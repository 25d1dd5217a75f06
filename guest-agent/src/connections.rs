//! What a process's network namespace has of TCP and UDP, from `/proc/PID/net`, proc_net_tcp(5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// State of a listening TCP socket, as the kernel prints it (`TCP_LISTEN`).
const LISTENING: &str = "0A";
/// That of one that is closed on both sides and only remembered (`TCP_TIME_WAIT`).
const TIME_WAIT: &str = "06";

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connection {
    local_port: u16,
    remote: IpAddr,
    is_listening: bool,
    is_over: bool,
}

/// Whether a TCP socket listens on this port.
pub(crate) fn is_listening(pid: i32, port: u16) -> io::Result<bool> {
    let sockets = ["tcp", "tcp6"].map(|protocol| read(pid, protocol));
    for sockets in sockets {
        if sockets?.iter().any(|socket| socket.is_listening && socket.local_port == port) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The other end of a connection that leaves the machine, if there is one.
pub(crate) fn find_outward(pid: i32) -> io::Result<Option<IpAddr>> {
    for protocol in ["tcp", "tcp6", "udp", "udp6"] {
        let outward = outward_among(&read(pid, protocol)?);
        if outward.is_some() {
            return Ok(outward);
        }
    }
    Ok(None)
}

fn outward_among(sockets: &[Connection]) -> Option<IpAddr> {
    let mut remotes = sockets.iter().filter(|socket| !socket.is_over).map(|socket| socket.remote.to_canonical());
    remotes.find(|remote| !remote.is_unspecified() && !remote.is_loopback())
}

/// Those of one protocol; none if the kernel doesn't have it.
fn read(pid: i32, protocol: &str) -> io::Result<Vec<Connection>> {
    let path = PathBuf::from(format!("/proc/{pid}/net/{protocol}"));
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().skip(1).filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A line: number, local address, remote address, state, and more.
fn parse(line: &str) -> Option<Connection> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let local_port = u16::from_str_radix(local.split_once(':')?.1, 16).ok()?;
    let remote = parse_address(remote.split_once(':')?.0)?;
    Some(Connection { local_port, remote, is_listening: state == LISTENING, is_over: state == TIME_WAIT })
}

/// Words of 32 bits, each in the machine's order, in hexadecimal.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_understood() {
        let line =
            "   1: 0100007F:0050 0201000A:D431 01 00000000:00000000 00:00000000 00000000  0 0 1 1 00 20 0 0 10 -1";
        let found = parse(line).unwrap();
        assert_eq!((found.local_port, found.remote), (80, "10.0.1.2".parse().unwrap()));
        assert!(!found.is_listening && !found.is_over);
        let line =
            "0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7 1 0";
        let found = parse(line).unwrap();
        assert!(found.is_listening && found.remote.is_unspecified());
        assert_eq!(parse_address("0000000000000000FFFF00000100007F").unwrap().to_canonical(), Ipv4Addr::LOCALHOST);
        for junk in ["", "sl local rem st", "0: 1 2 3", "0: 0:0 0:0 0A", "0: 00000000:10050 00000000:0000 0A"] {
            assert_eq!(parse(junk).filter(|socket| socket.is_listening), None, "{junk}");
        }
    }

    #[test]
    fn what_leaves_the_machine_is_told_from_what_does_not() {
        let line = |remote: &str, state: &str| format!("0: 0100007F:0050 {remote} {state} 0 0 0 0 0 1 0");
        let outward = |remote, state| outward_among(&[parse(&line(remote, state)).unwrap()]).is_some();
        for inward in ["0100007F:1234", "00000000:0000", "0000000000000000FFFF00000100007F:1234"] {
            assert!(!outward(inward, "01"), "{inward}");
        }
        assert!(outward("0201000A:0050", "01") && outward("0000000000000000FFFF00000201000A:0050", "02"));
        assert!(!outward("0201000A:0050", TIME_WAIT), "both sides are done with it");
    }

    #[test]
    fn a_listener_is_found_and_a_connection_within_is_not_outward() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let pid = std::process::id().cast_signed();
        assert!(is_listening(pid, address.port()).unwrap());
        let line = read(pid, "tcp").unwrap();
        let _both = (std::net::TcpStream::connect(address).unwrap(), listener.accept().unwrap());
        assert!(read(pid, "tcp").unwrap().len() > line.len());
        drop(listener);
        assert!(!is_listening(pid, address.port()).unwrap());
    }
}
