//! Steering of connections: what is dialled in a network namespace at an address of its own, and nobody listens there,
//! is given to one listener.
//!
//! It is done by the kernel's packet filter (nftables), whose `tproxy` hands packets to a socket as they are, so that
//! the accepted connection's own address is the one that was dialled. The table belongs to the netlink socket that it was
//! made through: the kernel removes it when that is closed, whoever closes it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// What the table, and the chain in it, are called.
const TABLE: &str = "supermachine";
const CHAIN: &str = "localhost";

/// Messages and their flags (`linux/netlink.h`, `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const NFTABLES: u16 = 10;
const ERROR: [u8; 2] = 2_u16.to_ne_bytes();
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFT_TABLE_F_OWNER`.
const OWNED: u32 = 2;
/// Where the chain is asked: as `NF_INET_PRE_ROUTING` with the priority of `mangle`, before the kernel looks for sockets.
const PRE_ROUTING: u32 = 0;
const MANGLE: i32 = -150;
/// The verdict that a packet goes on as it would (`NF_ACCEPT`).
const ACCEPT: u32 = 1;
/// The register of a verdict, and one for values.
const VERDICT: u32 = 0;
const VALUE: u32 = 1;
/// What of a packet can be asked for (`enum nft_meta_keys`).
const INTERFACE: u32 = 4;
const TRANSPORT: u32 = 16;
/// The index of a namespace's loopback interface, through which all comes that it sends to itself.
const LOOPBACK: u32 = 1;
const TCP: u8 = 6;

/// A namespace's connections are steered as long as this is open.
#[derive(Debug)]
pub(super) struct Steering {
    _table: OwnedFd,
}

impl Steering {
    /// Begins, in this thread's network namespace, to give connections to whoever listens on this port of any address,
    /// with a transparent socket.
    pub(super) fn begin(port: u16) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        send(&socket, &batch(port), SendFlags::empty())?;
        // The kernel has answered before `send` returns.
        let mut answer = [0; 4096];
        let (bytes, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
        outcome(answer.get(..bytes).unwrap_or_default())?;
        Ok(Self { _table: socket })
    }
}

/// What an acknowledgement says: the header, then an error number, which is 0 or negative.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let number = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match number {
        Some(number) if answer.get(4..6) == Some(&ERROR) => match number {
            0 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The table, all of it or nothing. Its last rule is acknowledged, and whatever fails.
fn batch(port: u16) -> Vec<u8> {
    let named = |fields: &mut Attributes| fields.text(1, TABLE);
    let rule = |expressions: &dyn Fn(&mut Attributes)| {
        Attributes::of(|fields| {
            named(fields);
            fields.text(2, CHAIN);
            fields.nest(4, |list| {
                // TCP that this namespace sends to itself.
                compared(list, INTERFACE, &LOOPBACK.to_ne_bytes());
                compared(list, TRANSPORT, &[TCP]);
                expressions(list);
            });
        })
    };
    let table = Attributes::of(|fields| {
        named(fields);
        fields.number(2, OWNED);
    });
    let chain = Attributes::of(|fields| {
        named(fields);
        fields.text(3, CHAIN);
        fields.nest(4, |hook| {
            hook.number(1, PRE_ROUTING);
            hook.number(2, MANGLE.cast_unsigned());
        });
        fields.text(7, "filter");
    });
    // Finds a socket, or ends the rule.
    let has_socket = |list: &mut Attributes| {
        list.expression("socket", |fields| {
            fields.number(1, 0);
            fields.number(2, VALUE);
        });
        list.expression("immediate", |fields| {
            fields.number(1, VERDICT);
            fields.nest(2, |data| data.nest(2, |verdict| verdict.number(1, ACCEPT)));
        });
    };
    let other = |list: &mut Attributes| {
        list.expression("immediate", |fields| {
            fields.number(1, VALUE);
            fields.nest(2, |data| data.put(1, &port.to_be_bytes()));
        });
        list.expression("tproxy", |fields| {
            fields.number(1, 0);
            fields.number(3, VALUE);
        });
    };
    let change = REQUEST | CREATE;
    [
        message(BATCH_BEGIN, REQUEST, 0, NFTABLES, &Attributes::default()),
        message(NEW_TABLE, change | EXCLUSIVE, INET, 0, &table),
        message(NEW_CHAIN, change, INET, 0, &chain),
        message(NEW_RULE, change | APPEND, INET, 0, &rule(&has_socket)),
        message(NEW_RULE, change | APPEND | ACKNOWLEDGE, INET, 0, &rule(&other)),
        message(BATCH_END, REQUEST, 0, NFTABLES, &Attributes::default()),
    ]
    .concat()
}

/// Goes on with the rule if that of the packet is this value.
fn compared(list: &mut Attributes, what: u32, value: &[u8]) {
    list.expression("meta", |fields| {
        fields.number(2, what);
        fields.number(1, VALUE);
    });
    list.expression("cmp", |fields| {
        fields.number(1, VALUE);
        fields.number(2, 0);
        fields.nest(3, |data| data.put(1, value));
    });
}

fn message(kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes) -> Vec<u8> {
    let attributes = &attributes.0;
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    // The sequence's number and the sender's, which the kernel knows.
    message.extend([0; 8]);
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

/// Attributes of a message: length, kind and content of each, which begins at a multiple of four.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn of(fill: impl FnOnce(&mut Self)) -> Self {
        let mut attributes = Self::default();
        fill(&mut attributes);
        attributes
    }

    fn put(&mut self, kind: u16, content: &[u8]) {
        let length = u16::try_from(4 + content.len()).unwrap_or(u16::MAX);
        self.0.extend([length.to_ne_bytes(), kind.to_ne_bytes()].concat());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, number: u32) {
        self.put(kind, &number.to_be_bytes());
    }

    fn text(&mut self, kind: u16, text: &str) {
        self.put(kind, &[text.as_bytes(), &[0]].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        const NESTED: u16 = 1 << 15;
        self.put(kind | NESTED, &Self::of(fill).0);
    }

    /// Adds an expression to a rule's list.
    fn expression(&mut self, name: &str, fill: impl FnOnce(&mut Self)) {
        self.nest(1, |element| {
            element.text(1, name);
            element.nest(2, fill);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_begin_at_multiples_of_four() {
        let attributes = Attributes::of(|fields| {
            fields.put(3, &[7]);
            fields.nest(4, |inner| inner.number(1, 258));
        });
        let expected: [&[u8]; 4] = [&[5, 0, 3, 0, 7, 0, 0, 0], &[12, 0, 4, 0x80], &[8, 0, 1, 0], &[0, 0, 1, 2]];
        assert_eq!(attributes.0, expected.concat());
    }

    #[test]
    fn half_an_answer_is_no_acknowledgement() {
        let mut answer = vec![0; 36];
        assert!(outcome(&answer).is_err());
        answer[4] = 2;
        assert!(outcome(&answer).is_ok());
        assert!(outcome(&answer[..19]).is_err());
        answer[16..20].copy_from_slice(&(-libc_eperm()).to_ne_bytes());
        assert_eq!(outcome(&answer).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    fn libc_eperm() -> i32 {
        rustix::io::Errno::PERM.raw_os_error()
    }
}
