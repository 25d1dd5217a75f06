use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;
use vm_memory::Bytes;

use super::connection::GRANTED_BYTES;
use super::packet::{Credit, HEADER_BYTES, Header, Operation, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::switchboard::MAX_CONNECTIONS;
use super::*;
use crate::driver::{
    DriverQueue, PATIENCE, bring_up, clone_ram, get, interrupt, kick, put, ram, readable, until, wait_interrupt,
    writable, write_register,
};
use crate::layout::{READY_PORT, VSOCK_SLOT};
use crate::{Backings, DeviceSet, DeviceSetState, Window};

/// Bytes of a place for packets to the guest, as the kernel makes them.
const PLACE: u64 = 0x1000;
const PLACES: u64 = 0x10_0000;
const PACKETS: u64 = 0x30_0000;
/// What the test guest grants per connection.
const ROOM: u32 = 64 * 1024;

/// A guest's driver with direct access to packets.
struct Guest {
    ram: GuestRam,
    set: DeviceSet,
    rx: DriverQueue,
    tx: DriverQueue,
    event: DriverQueue,
    places: Vec<u64>,
}

impl Guest {
    fn new() -> Self {
        let ram = ram();
        let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
        Self::drive(ram, set)
    }

    /// Begins to drive a device, which resets it first.
    fn drive(ram: GuestRam, set: DeviceSet) -> Self {
        let [rx, tx] = [0x1000, 0x8000].map(|base| DriverQueue::new(&ram, base, 128));
        let event = DriverQueue::new(&ram, 0x1_0000, 16);
        bring_up(&set, VSOCK_SLOT, &[&rx, &tx, &event]);
        let mut guest = Self { ram, set, rx, tx, event, places: vec![0; 128] };
        guest.fill(128);
        guest.set.start(|| (), || ()).unwrap();
        guest
    }

    /// A guest that has knocked.
    fn ready() -> Self {
        let mut guest = Self::new();
        guest.send(Header::control(Operation::Request, READY_PORT, 5000), &[]);
        let (reset, _) = guest.receive();
        assert_eq!((reset.operation, reset.host_port, reset.guest_port), (Operation::Reset, READY_PORT, 5000));
        guest
    }

    fn fill(&mut self, count: u64) {
        for place in 0..count {
            self.offer_place(PLACES + PLACE * place);
        }
    }

    fn offer_place(&mut self, address: u64) {
        let (head, wanted) = self.rx.offer(&[writable(address, PLACE as u32)]);
        self.places[usize::from(head)] = address;
        if wanted {
            kick(&self.set, VSOCK_SLOT, 0);
        }
    }

    /// Sends a packet and waits until the device has taken it.
    fn send(&mut self, mut header: Header, data: &[u8]) {
        header.length = data.len() as u32;
        self.send_raw(&header.to_host(), data);
    }

    fn send_raw(&mut self, header: &[u8; HEADER_BYTES], data: &[u8]) {
        put(&self.ram, PACKETS, header);
        put(&self.ram, PACKETS + 64, data);
        let mut pieces = vec![readable(PACKETS, HEADER_BYTES as u32)];
        // Data in two pieces, as the kernel's larger packets have.
        let half = data.len() as u32 / 2;
        pieces.extend((half > 0).then(|| readable(PACKETS + 64, half)));
        pieces.extend((!data.is_empty()).then(|| readable(PACKETS + 64 + u64::from(half), data.len() as u32 - half)));
        if self.tx.offer(&pieces).1 {
            kick(&self.set, VSOCK_SLOT, 1);
        }
        until("a packet being taken", || self.tx.complete().is_some());
    }

    /// The next packet to the guest, if there is one now.
    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.rx.complete()?;
        let address = self.places[usize::from(head)];
        let mut bytes: [u8; HEADER_BYTES] = get(&self.ram, address, HEADER_BYTES).try_into().unwrap();
        assert_eq!((bytes[0], bytes[8]), (2, 3), "from the host to the guest");
        // The same header with its ends exchanged reads as one of the guest's.
        bytes.copy_within(8..16, 0);
        bytes[8..16].copy_from_slice(&2u64.to_le_bytes());
        let (host_port, guest_port): ([u8; 4], [u8; 4]) =
            (bytes[16..20].try_into().unwrap(), bytes[20..24].try_into().unwrap());
        bytes[16..20].copy_from_slice(&guest_port);
        bytes[20..24].copy_from_slice(&host_port);
        let header = Header::from_guest(&bytes).unwrap();
        assert_eq!(written, HEADER_BYTES as u32 + header.length);
        let data = get(&self.ram, address + HEADER_BYTES as u64, header.length as usize);
        self.offer_place(address);
        Some((header, data))
    }

    /// The next packet to the guest; sleeps until interrupted as a driver does.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(packet) = self.try_receive() {
                return packet;
            }
            if !self.rx.arm() {
                wait_interrupt(&self.set, VSOCK_SLOT);
            }
        }
    }

    /// Connects and accepts.
    fn connect(&mut self, port: u32) -> (UnixStream, Header) {
        let stream = self.ask(port);
        let (request, _) = self.receive();
        assert_eq!((request.operation, request.guest_port), (Operation::Request, port));
        let peer = Header { credit: Credit { allocated: ROOM, forwarded: 0 }, ..request };
        self.send(Header { operation: Operation::Response, ..peer }, &[]);
        (stream, peer)
    }

    fn ask(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.set.connect(port, theirs.into()).unwrap();
        ours
    }

    fn open(&self, count: usize) {
        until("connections being closed", || self.set.open_connections() == count);
    }
}

fn with(peer: Header, operation: Operation) -> Header {
    Header { operation, ..peer }
}

fn is_ended(stream: &mut UnixStream) -> bool {
    stream.read(&mut [0]).unwrap() == 0
}

#[test]
fn bytes_flow_both_ways() {
    let mut guest = Guest::ready();
    let (mut stream, peer) = guest.connect(1024);
    stream.write_all(b"question").unwrap();
    let (header, data) = guest.receive();
    assert_eq!((header.operation, &data[..]), (Operation::Data, &b"question"[..]));
    assert_eq!(header.credit.allocated, GRANTED_BYTES);
    guest.send(with(peer, Operation::Data), b"answer");
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn bytes_written_before_the_answer_follow_it_at_once() {
    let mut guest = Guest::ready();
    let mut stream = guest.ask(1024);
    stream.write_all(b"early").unwrap();
    let (request, _) = guest.receive();
    assert!(guest.try_receive().is_none(), "nothing before the guest has agreed");
    let credit = Credit { allocated: ROOM, forwarded: 0 };
    guest.send(Header { operation: Operation::Response, credit, ..request }, &[]);
    assert_eq!(guest.receive().1, b"early");
}

#[test]
fn a_connection_waits_for_the_knock() {
    let mut guest = Guest::new();
    let _stream = guest.ask(1025);
    assert!(guest.try_receive().is_none());
    assert_eq!(guest.set.open_connections(), 1);
    guest.send(Header::control(Operation::Request, 7, 5000), &[]);
    assert_eq!(guest.receive().0.operation, Operation::Reset);
    assert!(guest.try_receive().is_none(), "another port is no knock");
    guest.send(Header::control(Operation::Request, READY_PORT, 5000), &[]);
    assert_eq!(guest.receive().0.operation, Operation::Reset);
    assert_eq!(guest.receive().0.operation, Operation::Request);
}

#[test]
fn a_connection_made_before_the_driver_begins_outlives_its_reset() {
    let ram = ram();
    let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
    let (_stream, theirs) = UnixStream::pair().unwrap();
    set.connect(1024, theirs.into()).unwrap();
    let mut guest = Guest::drive(ram, set);
    guest.send(Header::control(Operation::Request, READY_PORT, 5000), &[]);
    assert_eq!(guest.receive().0.operation, Operation::Reset);
    let (request, _) = guest.receive();
    assert_eq!((request.operation, request.guest_port), (Operation::Request, 1024));
}

#[test]
fn a_refusal_is_an_end_of_file_even_with_bytes_under_way() {
    let mut guest = Guest::ready();
    let mut stream = guest.ask(9);
    stream.write_all(b"never read").unwrap();
    let (request, _) = guest.receive();
    guest.send(with(request, Operation::Reset), &[]);
    assert!(is_ended(&mut stream));
    guest.open(0);
}

#[test]
fn either_side_can_end_its_direction_first() {
    let mut guest = Guest::ready();
    let (mut stream, peer) = guest.connect(1025);
    stream.write_all(b"last").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.receive().1, b"last");
    let (header, _) = guest.receive();
    assert_eq!((header.operation, header.flags), (Operation::Shutdown, SHUTDOWN_SEND));
    guest.send(with(peer, Operation::Data), b"still here");
    guest.send(Header { flags: SHUTDOWN_SEND, ..with(peer, Operation::Shutdown) }, &[]);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    guest.send(Header { flags: SHUTDOWN_SEND | SHUTDOWN_RECEIVE, ..with(peer, Operation::Shutdown) }, &[]);
    loop {
        if guest.receive().0.operation == Operation::Reset {
            break;
        }
    }
    guest.open(0);
}

#[test]
fn a_host_that_closes_is_reported_as_both_directions() {
    let mut guest = Guest::ready();
    let (stream, peer) = guest.connect(1025);
    drop(stream);
    let mut told = 0;
    while told != SHUTDOWN_SEND | SHUTDOWN_RECEIVE {
        let (header, _) = guest.receive();
        assert_eq!(header.operation, Operation::Shutdown);
        told |= header.flags;
    }
    guest.send(with(peer, Operation::Reset), &[]);
    guest.open(0);
}

#[test]
fn packets_of_no_connection_are_reset() {
    let mut guest = Guest::ready();
    for operation in [Operation::Response, Operation::Data, Operation::Shutdown, Operation::CreditUpdate] {
        guest.send(Header::control(operation, 77, 88), &[]);
        let (reset, _) = guest.receive();
        assert_eq!((reset.operation, reset.host_port, reset.guest_port), (Operation::Reset, 77, 88));
    }
    guest.send(Header::control(Operation::Reset, 77, 88), &[]);
    assert!(guest.try_receive().is_none(), "a reset is not answered");
}

#[test]
fn a_guest_that_sends_more_than_it_was_granted_is_reset() {
    let mut guest = Guest::ready();
    let (stream, peer) = guest.connect(1025);
    let data = vec![1; 32 * 1024];
    // The stream takes some; after that the grant is all there is.
    for _ in 0..100 {
        guest.send(with(peer, Operation::Data), &data);
        if let Some((header, _)) = guest.try_receive()
            && header.operation == Operation::Reset
        {
            drop(stream);
            guest.open(0);
            return;
        }
    }
    panic!("3 MiB without credit were accepted");
}

#[test]
fn the_guests_credit_is_respected() {
    let mut guest = Guest::ready();
    let (mut stream, peer) = guest.connect(1025);
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[7; 4096]).is_ok() {}
    let mut received = 0;
    while received < ROOM {
        received += guest.receive().0.length;
    }
    assert_eq!(received, ROOM);
    assert!(guest.try_receive().is_none(), "the room is used up");
    let credit = Credit { allocated: ROOM, forwarded: 100 };
    guest.send(Header { credit, ..with(peer, Operation::CreditUpdate) }, &[]);
    assert_eq!(guest.receive().0.length, 100);
}

#[test]
fn a_reader_that_stops_holds_up_nobody_else_and_loses_nothing() {
    let mut guest = Guest::ready();
    let (mut slow, slow_peer) = guest.connect(1025);
    let (mut quick, quick_peer) = guest.connect(1025);
    for _ in 0..6 {
        guest.send(with(slow_peer, Operation::Data), &[5; 32 * 1024]);
    }
    guest.send(with(quick_peer, Operation::Data), b"through");
    let mut text = [0; 7];
    quick.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through");
    guest.send(with(slow_peer, Operation::Reset), &[]);
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    assert_eq!(all, vec![5; 6 * 32 * 1024], "what was sent before the end arrives");
    guest.open(1);
}

/// A guest that echoes everything from its own thread, while two hosts write and read 8 MiB each.
#[test]
fn much_data_flows_through_two_connections_at_once() {
    const BYTES: usize = 8 << 20;
    let mut guest = Guest::ready();
    let streams = [guest.connect(1025).0, guest.connect(1025).0];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        scope.spawn(move || {
            let mut forwarded = std::collections::HashMap::<u32, u32>::new();
            while !done.load(Ordering::SeqCst) {
                let Some((header, data)) = guest.try_receive() else {
                    std::thread::yield_now();
                    continue;
                };
                if header.operation == Operation::Data {
                    let count = forwarded.entry(header.host_port).or_default();
                    *count = count.wrapping_add(header.length);
                    let credit = Credit { allocated: ROOM, forwarded: *count };
                    guest.send(Header { credit, ..header }, &data);
                }
            }
        });
        let hosts = streams.map(|stream| {
            let mut writer = stream.try_clone().unwrap();
            let mut reader = stream;
            let sender = scope.spawn(move || {
                for block in 0..BYTES / 8192 {
                    writer.write_all(&[block as u8; 8192]).unwrap();
                }
            });
            let receiver = scope.spawn(move || {
                let mut block = [0; 8192];
                for index in 0..BYTES / 8192 {
                    reader.read_exact(&mut block).unwrap();
                    assert!(block == [index as u8; 8192], "block {index}");
                }
            });
            (sender, receiver)
        });
        let results = hosts.map(|(sender, receiver)| (sender.join(), receiver.join()));
        done.store(true, Ordering::SeqCst);
        assert!(results.iter().all(|(sent, received)| sent.is_ok() && received.is_ok()));
    });
}

#[test]
fn connections_are_bounded_in_number() {
    let guest = Guest::new();
    let streams: Vec<UnixStream> = (0..MAX_CONNECTIONS / 16).map(|_| guest.ask(1)).collect();
    let copies = MAX_CONNECTIONS - streams.len();
    let (_ours, theirs) = UnixStream::pair().unwrap();
    let accepted =
        (0..=copies).take_while(|_| guest.set.connect(1, theirs.try_clone().unwrap().into()).is_ok()).count();
    assert_eq!((accepted, guest.set.open_connections()), (copies, MAX_CONNECTIONS));
}

#[test]
fn a_saved_device_goes_on_without_its_connections_and_is_ready() {
    let mut guest = Guest::ready();
    let (stream, peer) = guest.connect(1024);
    guest.set.quiesce().unwrap();
    assert!(matches!(guest.set.save(), Err(DeviceError::Connected { open: 1 })));
    guest.set.start(|| (), || ()).unwrap();
    drop(stream);
    guest.send(with(peer, Operation::Reset), &[]);
    guest.open(0);
    while guest.try_receive().is_some() {}
    guest.set.quiesce().unwrap();
    let _ = interrupt(&guest.set, VSOCK_SLOT).read();
    let bytes = postcard::to_stdvec(&guest.set.save().unwrap()).unwrap();
    let state: DeviceSetState = postcard::from_bytes(&bytes).unwrap();
    let ram = clone_ram(&guest.ram);
    let set = DeviceSet::restore(state.clone(), ram.clone(), &Window::default(), Backings::default()).unwrap();
    assert_eq!(set.save().unwrap(), state);
    let Guest { rx, tx, event, places, .. } = guest;
    let [rx, tx, event] = [rx, tx, event].map(|queue| queue.moved_to(&ram));
    let mut restored = Guest { ram, set, rx, tx, event, places };
    assert!(restored.event.complete().is_none());
    restored.set.start(|| (), || ()).unwrap();
    let (mut stream, next) = restored.connect(1024);
    assert_eq!(next.host_port, peer.host_port + 1, "no port is used again");
    stream.write_all(b"hello").unwrap();
    assert_eq!(restored.receive().1, b"hello");
}

/// A packet that the guest had queued and the device had not taken, when the machine was captured.
#[test]
fn a_packet_under_way_at_a_capture_is_taken_after_the_restore() {
    let guest = Guest::ready();
    guest.set.quiesce().unwrap();
    let Guest { ram, set, rx, mut tx, event, places } = guest;
    put(&ram, PACKETS, &Header::control(Operation::CreditUpdate, 77, 88).to_host());
    tx.offer(&[readable(PACKETS, HEADER_BYTES as u32)]);
    let bytes = postcard::to_stdvec(&set.save().unwrap()).unwrap();
    let copy = clone_ram(&ram);
    let set = DeviceSet::restore(
        postcard::from_bytes(&bytes).unwrap(),
        copy.clone(),
        &Window::default(),
        Backings::default(),
    )
    .unwrap();
    let [rx, tx, event] = [rx, tx, event].map(|queue| queue.moved_to(&copy));
    let mut restored = Guest { ram: copy, set, rx, tx, event, places };
    restored.set.start(|| (), || ()).unwrap();
    let (reset, _) = restored.receive();
    assert_eq!((reset.operation, reset.host_port, reset.guest_port), (Operation::Reset, 77, 88));
    until("the packet being taken", || restored.tx.complete().is_some());
}

#[test]
fn a_driver_reset_ends_all_connections() {
    let mut guest = Guest::ready();
    let (mut stream, _) = guest.connect(1024);
    write_register(&guest.set, VSOCK_SLOT, reg::VIRTIO_MMIO_STATUS, 0);
    assert!(is_ended(&mut stream));
    assert_eq!(guest.set.open_connections(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_packets_are_survived(
        packets in prop::collection::vec(
            (0u16..9, any::<u32>(), 0u32..4, prop_oneof![0u32..100, any::<u32>()], any::<bool>(), 0usize..80),
            1..40,
        ),
    ) {
        let mut guest = Guest::ready();
        let (mut stream, peer) = guest.connect(1025);
        stream.set_nonblocking(true).unwrap();
        for (code, forwarded, flags, length, ours, bytes) in packets {
            let guest_port = if ours { peer.guest_port } else { 4 };
            let credit = Credit { allocated: length, forwarded };
            let header = Header { guest_port, length, flags, credit, ..peer };
            let mut raw = header.to_host();
            raw[30..32].copy_from_slice(&code.to_le_bytes());
            guest.send_raw(&raw, &vec![3; bytes]);
            match stream.write(&[1; 100]) {
                Ok(_) => {}
                Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe)),
            }
            while guest.try_receive().is_some() {}
        }
        let at = guest.ram.read_obj::<u16>(vm_memory::GuestAddress(0x1000));
        prop_assert!(at.is_ok());
        let _other = guest.ask(1024);
        until("a new connection", || guest.try_receive().is_some_and(|(header, _)| header.operation == Operation::Request));
    }
}

proptest! {
    #[test]
    fn any_header_is_read_or_rejected(mut bytes in prop::array::uniform32(any::<u8>()), code in 0u16..10, kind in 0u16..3) {
        let mut raw = [0; HEADER_BYTES];
        raw[..32].copy_from_slice(&bytes);
        // Garbage, and then garbage between the right ends.
        prop_assert!(Header::from_guest(&raw).is_err() || bytes[0] == 3);
        bytes[..16].copy_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        raw[..32].copy_from_slice(&bytes);
        raw[28..30].copy_from_slice(&kind.to_le_bytes());
        raw[30..32].copy_from_slice(&code.to_le_bytes());
        match Header::from_guest(&raw) {
            Ok(header) => prop_assert_eq!(header.to_host(), raw, "nothing of it is lost"),
            Err(_) => prop_assert!(kind != 1 || !(1..=7).contains(&code)),
        }
    }
}
