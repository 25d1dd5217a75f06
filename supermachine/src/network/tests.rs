//! With real interfaces, in namespaces of the tests' own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;

use futures::TryStreamExt as _;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteScope;
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::io::AsyncWriteExt as _;

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

/// A guest that keeps what it is given, and says back what is said to it.
#[derive(Default)]
struct Fake {
    taps: Mutex<BTreeMap<usize, OwnedFd>>,
    given: Mutex<BTreeMap<usize, ConfigureNetworkRequest>>,
}

#[async_trait::async_trait]
impl Guest for Fake {
    async fn attach(&self, card: usize, tap: OwnedFd) -> Result<(), NetworkError> {
        assert!(self.taps.lock().unwrap().insert(card, tap).is_none(), "card {card} has a tap");
        Ok(())
    }

    async fn remove(&self, card: usize) -> Result<(), NetworkError> {
        self.taps.lock().unwrap().remove(&card).unwrap();
        self.given.lock().unwrap().remove(&card).unwrap();
        Ok(())
    }

    async fn configure(&self, interface: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
        self.given.lock().unwrap().insert(interface.card as usize, interface.clone());
        Ok(())
    }

    /// Nobody listens on ports below 1000.
    async fn dial(&self, address: SocketAddr) -> Result<UnixStream, DialError> {
        if address.port() < 1000 {
            return Err(DialError::Refused { address });
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            theirs.write_all(format!("{address}\n").as_bytes()).await.unwrap();
            let (mut read, mut write) = theirs.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        Ok(ours)
    }
}

/// What a namespace's guest was given: its tap and its interface. The connection ends when it is dropped.
struct Given {
    tap: File,
    interface: ConfigureNetworkRequest,
    connection: Connection,
}

async fn given(namespace: File) -> Result<Option<Given>, NetworkError> {
    let guest = Arc::new(Fake::default());
    let connection = connect(namespace, guest.clone(), false).await?;
    let (tap, interface) = (guest.taps.lock().unwrap().remove(&0), guest.given.lock().unwrap().remove(&0));
    Ok(tap.zip(interface).map(|(tap, interface)| Given { tap: tap.into(), interface, connection }))
}

/// Works in a namespace and is done.
async fn within<T: Send + 'static>(
    namespace: File,
    work: impl AsyncFnOnce(&Handle) -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    inside(namespace, async move |handle: Handle| Ok((work(&handle).await?, std::future::ready(())))).await
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
    within(twin(container), async move |handle: &Handle| {
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
    within(twin(outside), async |handle: &Handle| {
        raise(handle, "outside", GATEWAY).await;
        Ok(())
    })
    .await
    .unwrap();
    within(twin(container), async |handle: &Handle| {
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

/// The first frame from the tap that is `wanted`, whole.
fn frame(tap: &mut File, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    loop {
        let mut frame = vec![0; 2000];
        let within = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&*tap, PollFlags::IN)], Some(&within)).unwrap(), 1, "no such frame");
        let bytes = tap.read(&mut frame).unwrap();
        if wanted(&frame) {
            frame.truncate(bytes);
            return frame;
        }
    }
}

/// What the tap brings, up to an ARP reply.
fn answer(tap: &mut File) -> Vec<u8> {
    frame(tap, |frame| frame[22..24] == [8, 6] && frame[30..32] == [0, 2])
}

#[tokio::test]
async fn a_guest_speaks_through_the_interface() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let mut tap = given(twin(&container)).await.unwrap().unwrap().tap;
    tap.write_all(&question()).unwrap();
    let answer = answer(&mut tap);
    assert_eq!(answer[10..16], MAC, "the answer is for the guest");
    assert_eq!(answer[38..42], GATEWAY.octets(), "the answer is the gateway's");
}

#[tokio::test]
async fn the_guest_is_told_what_the_interface_has() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let told = given(twin(&container)).await.unwrap().unwrap().interface;
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
    let first = given(twin(&container)).await.unwrap().unwrap();
    let Err(second) = given(twin(&container)).await else { panic!("two have it") };
    assert!(matches!(&second, NetworkError::Taken { interface } if interface == "eth0"), "{second}");
    drop(first);
    let mut tap = given(twin(&container)).await.unwrap().unwrap().tap;
    tap.write_all(&question()).unwrap();
    answer(&mut tap);
}

#[tokio::test]
async fn other_namespaces_are_left_alone_or_refused() {
    let Some([empty, several]) = namespaces().await else { return };
    assert!(given(empty).await.unwrap().is_none());
    within(twin(&several), async |handle: &Handle| {
        for (name, other) in [("one", "two"), ("three", "four"), ("five", "its-end")] {
            handle.link().add(LinkVeth::new(name, other).build()).execute().await.unwrap();
        }
        for name in ["one", "two", "three", "four", "five"] {
            raise(handle, name, OWN).await;
        }
        Ok(())
    })
    .await
    .unwrap();
    let Err(error) = given(several).await else { panic!("one was chosen") };
    assert!(matches!(&error, NetworkError::TooMany { names } if names.len() == 5), "{error}");
    assert!(error.to_string().contains("one") && error.to_string().contains("fewer networks"), "{error}");
    let own = File::open("/proc/self/ns/net").unwrap();
    assert!(matches!(given(own).await, Err(NetworkError::Own)));
}

/// What someone in the namespace hears who dials an address, says this and has no more to say.
async fn dialled(namespace: &File, address: &str, said: Vec<u8>) -> io::Result<Vec<u8>> {
    let address: SocketAddr = address.parse().unwrap();
    within(twin(namespace), async move |_| {
        let conversation = || {
            let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            let mut writing = stream.try_clone()?;
            let writer = std::thread::spawn(move || {
                writing.write_all(&said)?;
                writing.shutdown(std::net::Shutdown::Write)
            });
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            writer.join().unwrap().map(|()| heard)
        };
        Ok(conversation())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_dialled_in_the_namespace_reaches_the_guest() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let _given = given(twin(&container)).await.unwrap().unwrap();
    let said: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for address in ["127.0.0.1:8080", "127.3.2.1:1000", "[::1]:65535", "10.9.0.2:8080"] {
        let heard = dialled(&container, address, said.clone()).await.unwrap();
        let (at, rest) = heard.split_at(heard.iter().position(|byte| *byte == b'\n').unwrap());
        assert_eq!(String::from_utf8_lossy(at), address);
        assert!(rest[1..] == said, "{address}: {} bytes came back", rest.len() - 1);
    }
}

#[tokio::test]
async fn where_nobody_listens_what_is_dialled_is_reset() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let _given = given(twin(&container)).await.unwrap().unwrap();
    for address in ["127.0.0.1:80", "[::1]:80"] {
        let error = dialled(&container, address, Vec::new()).await.unwrap_err();
        assert!(matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected), "{error:?}");
    }
}

#[tokio::test]
async fn many_dial_at_a_time() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let _given = given(twin(&container)).await.unwrap().unwrap();
    // More than may be open at a time, each open until all have been answered or wait.
    let heard = within(twin(&container), async |_| {
        let dial = || std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        let mut open: Vec<_> = (0..300).map(|_| dial()).collect();
        Ok(open
            .drain(..)
            .map(|mut stream| {
                stream.write_all(b"heard").unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut heard = String::new();
                stream.read_to_string(&mut heard).unwrap();
                heard
            })
            .collect::<Vec<_>>())
    });
    let heard = heard.await.unwrap();
    assert_eq!(heard.len(), 300);
    assert!(heard.iter().all(|heard| heard == "127.0.0.1:8080\nheard"), "{heard:?}");
}

#[tokio::test]
async fn who_listens_in_the_namespace_itself_is_found_there() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let _given = given(twin(&container)).await.unwrap().unwrap();
    let listeners = within(twin(&container), async |_| {
        let listen = |at| std::net::TcpListener::bind(at).unwrap();
        Ok([listen("127.0.0.1:0"), listen("[::1]:0"), listen("0.0.0.0:0")])
    });
    for listener in listeners.await.unwrap() {
        let port = listener.local_addr().unwrap().port();
        let address = if listener.local_addr().unwrap().is_ipv6() {
            format!("[::1]:{port}")
        } else {
            format!("127.0.0.1:{port}")
        };
        let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"in the namespace").unwrap());
        assert_eq!(dialled(&container, &address, Vec::new()).await.unwrap(), b"in the namespace");
        server.join().unwrap();
    }
}

#[tokio::test]
async fn nothing_is_steered_any_more_once_the_connection_has_ended() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    for _ in 0..2 {
        let Given { connection, tap, .. } = given(twin(&container)).await.unwrap().unwrap();
        dialled(&container, "127.0.0.1:8080", Vec::new()).await.unwrap();
        drop((connection, tap));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match dialled(&container, "127.0.0.1:8080", Vec::new()).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                said => assert!(Instant::now() < deadline, "{said:?}"),
            }
        }
    }
}

/// Waits until the guest was given what is looked for.
async fn until(guest: &Fake, what: &str, holds: impl Fn(&BTreeMap<usize, ConfigureNetworkRequest>) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let given = guest.given.lock().unwrap().clone();
        if holds(&given) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {given:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_guest_is_shown_what_changes() {
    let Some([container, outside]) = namespaces().await else { return };
    let guest = Arc::new(Fake::default());
    let _connection = connect(twin(&container), guest.clone(), false).await.unwrap();
    assert!(guest.given.lock().unwrap().is_empty());
    set_up(&container, &outside).await;
    let has = |card: usize, name: &'static str, routes: usize| {
        move |given: &BTreeMap<usize, ConfigureNetworkRequest>| {
            given.get(&card).is_some_and(|given| given.name == name && given.routes.len() == routes)
        }
    };
    until(&guest, "eth0 appears", has(0, "eth0", 2)).await;
    // It is reached like one that was there before.
    dialled(&container, "127.0.0.1:8080", Vec::new()).await.unwrap();

    within(twin(&container), async |handle: &Handle| {
        handle.link().add(LinkVeth::new("eth1", "far1").build()).execute().await.unwrap();
        raise(handle, "eth1", Ipv4Addr::new(10, 9, 1, 2)).await;
        Ok(())
    })
    .await
    .unwrap();
    until(&guest, "eth1 appears", |given| {
        given.get(&1).is_some_and(|given| given.name == "eth1" && given.addresses[0].address == [10, 9, 1, 2])
    })
    .await;

    within(twin(&container), async |handle: &Handle| {
        let eth0 = link(handle, "eth0").await.header.index;
        handle.link().set(LinkUnspec::new_with_index(eth0).mtu(1300).build()).execute().await.unwrap();
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).build();
        handle.route().del(default).execute().await.unwrap();
        Ok(())
    })
    .await
    .unwrap();
    until(&guest, "a route goes", has(0, "eth0", 1)).await;
    until(&guest, "the MTU changes", |given| given[&0].mtu == 1300).await;

    within(twin(&container), async |handle: &Handle| {
        let eth1 = link(handle, "eth1").await.header.index;
        handle.link().del(eth1).execute().await.unwrap();
        Ok(())
    })
    .await
    .unwrap();
    until(&guest, "eth1 goes", |given| !given.contains_key(&1)).await;
}

/// A socket for datagrams in a namespace.
async fn datagrams(namespace: &File, address: Ipv4Addr, port: u16) -> std::net::UdpSocket {
    within(twin(namespace), async move |_: &Handle| {
        let socket = std::net::UdpSocket::bind((address, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Ok(socket)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn what_a_name_server_of_the_host_is_answered_stays_there() {
    let Some([container, outside]) = namespaces().await else { return };
    set_up(&container, &outside).await;
    let guest = Arc::new(Fake::default());
    let _connection = connect(twin(&container), guest.clone(), true).await.unwrap();
    let server = datagrams(&outside, GATEWAY, 53).await;
    let asker = datagrams(&container, Ipv4Addr::UNSPECIFIED, 0).await;
    asker.send_to(b"question", (GATEWAY, 53)).unwrap();
    let mut heard = [0; 100];
    let (_, from) = server.recv_from(&mut heard).unwrap();
    assert!(from.port() >= 0xf000, "{from}");
    server.send_to(b"answer", from).unwrap();
    let (length, _) = asker.recv_from(&mut heard).unwrap();
    assert_eq!(heard[..length], *b"answer");
    // What the guest is answered is the guest's, and so is what others say to the host's ports.
    let mut tap = File::from(guest.taps.lock().unwrap().remove(&0).unwrap());
    server.send_to(b"to the guest", (OWN, 40_000)).unwrap();
    assert!(payload(&mut tap).ends_with(b"to the guest"));
    let other = datagrams(&outside, GATEWAY, 0).await;
    other.send_to(b"no answer", from).unwrap();
    assert!(payload(&mut tap).ends_with(b"no answer"));
    // Both hear of the neighbours.
    tap.write_all(&question()).unwrap();
    answer(&mut tap);
}

/// The next IPv4 packet that the tap brings.
fn payload(tap: &mut File) -> Vec<u8> {
    frame(tap, |frame| frame[22..24] == [8, 0]).split_off(24)
}
