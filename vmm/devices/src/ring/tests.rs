use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::Window;
use crate::driver::{DriverQueue, RAM_BYTES, get, put, ram, readable, writable};

const SIZE: u16 = 16;

fn ring_over(queue: &DriverQueue) -> Ring {
    let mut ring = Ring::new(SIZE).unwrap();
    let inner = ring.queue_mut();
    virtio_queue::QueueT::set_desc_table_address(inner, Some(queue.base as u32), None);
    virtio_queue::QueueT::set_avail_ring_address(inner, Some(queue.avail_ring() as u32), None);
    virtio_queue::QueueT::set_used_ring_address(inner, Some(queue.used_ring() as u32), None);
    virtio_queue::QueueT::set_event_idx(inner, true);
    virtio_queue::QueueT::set_ready(inner, true);
    ring
}

#[test]
fn a_request_is_gathered_across_the_seam_of_two_regions() {
    let ram = ram();
    let mut queue = DriverQueue::new(&ram, 0, SIZE);
    let seam = RAM_BYTES / 2;
    put(&ram, seam - 3, b"abcdef");
    let (head, _) = queue.offer(&[readable(seam - 3, 6), writable(0x9000, 10)]);
    let mut ring = ring_over(&queue);
    let chain = ring.pop(&ram).unwrap().unwrap();
    let request = chain.request.unwrap();
    assert_eq!((chain.head, request.readable.slices().len(), request.writable.bytes()), (head, 2, 10));
    let mut bytes = [0; 8];
    assert_eq!(request.readable.copy_to(&mut bytes), 6);
    assert_eq!(&bytes, b"abcdef\0\0");
    assert!(ring.pop(&ram).unwrap().is_none());
}

#[test]
fn malformed_requests_are_told_apart_and_keep_their_heads() {
    let ram = ram();
    let mut queue = DriverQueue::new(&ram, 0, SIZE);
    let cases = [
        (vec![writable(0x9000, 4), readable(0x9000, 4)], chain::Malformed::Order),
        (vec![readable(RAM_BYTES - 2, 4)], chain::Malformed::OutsideRam),
        (vec![writable(u64::MAX - 1, 4)], chain::Malformed::OutsideRam),
    ];
    for (pieces, expected) in cases {
        let (head, _) = queue.offer(&pieces);
        let mut ring = ring_over(&queue);
        while let Some(chain) = ring.pop(&ram).unwrap() {
            if chain.head == head {
                assert_eq!(chain.request.unwrap_err(), expected);
            }
        }
    }
}

#[test]
fn a_chain_that_loops_ends() {
    let ram = ram();
    let mut queue = DriverQueue::new(&ram, 0, SIZE);
    queue.write_descriptor(0, 0x9000, 8, 1, 1);
    queue.write_descriptor(1, 0x9000, 8, 1, 0);
    queue.publish(0);
    let chain = ring_over(&queue).pop(&ram).unwrap().unwrap();
    assert_eq!(chain.request.unwrap().readable.bytes(), 8 * usize::from(SIZE));
}

#[test]
fn an_indirect_table_beyond_the_limit_is_refused() {
    let ram = ram();
    let mut queue = DriverQueue::new(&ram, 0, SIZE);
    let entries = 4096u16;
    for entry in 0..entries {
        let at = 0x10_0000 + 16 * u64::from(entry);
        ram.write_obj(0x9000u64, GuestAddress(at)).unwrap();
        ram.write_obj(1u32, GuestAddress(at + 8)).unwrap();
        ram.write_obj(1u16, GuestAddress(at + 12)).unwrap();
        ram.write_obj(entry + 1, GuestAddress(at + 14)).unwrap();
    }
    queue.write_descriptor(0, 0x10_0000, 16 * u32::from(entries), 4, 0);
    queue.publish(0);
    let chain = ring_over(&queue).pop(&ram).unwrap().unwrap();
    assert_eq!(chain.request.unwrap_err(), chain::Malformed::TooLong);
}

#[test]
fn a_ring_that_claims_more_than_its_size_is_broken() {
    let ram = ram();
    let queue = DriverQueue::new(&ram, 0, SIZE);
    ram.write_obj(SIZE + 1, GuestAddress(queue.avail_ring() + 2)).unwrap();
    assert!(ring_over(&queue).pop(&ram).is_err());
}

#[test]
fn serving_leaves_work_beyond_the_budget_and_notifies_itself() {
    let ram = ram();
    let mut queue = DriverQueue::new(&ram, 0, SIZE);
    for _ in 0..5 {
        queue.offer(&[writable(0x9000, 4)]);
    }
    let rings = Rings::new(ram, Window::default().page(0), &[SIZE]).unwrap();
    *rings.lock() = Queues { active: true, rings: vec![ring_over(&queue)] };
    let mut served = 0;
    rings.serve(0, 3, |_| {
        served += 1;
        0
    });
    assert_eq!((served, rings.notifiers()[0].read().unwrap()), (3, 1));
    assert_eq!(rings.interrupt.event().read().unwrap(), 1, "one interrupt for three completions");
    rings.serve(0, 3, |_| {
        served += 1;
        0
    });
    assert_eq!(served, 5);
    assert!(rings.notifiers()[0].read().is_err(), "nothing is left to notify about");
    assert!(rings.interrupt.event().read().is_err(), "the driver has not asked for another interrupt");
}

#[test]
fn a_broken_ring_stops_the_device_and_says_so() {
    let ram = ram();
    let queue = DriverQueue::new(&ram, 0, SIZE);
    ram.write_obj(u16::MAX, GuestAddress(queue.avail_ring() + 2)).unwrap();
    let rings = Rings::new(ram, Window::default().page(0), &[SIZE]).unwrap();
    *rings.lock() = Queues { active: true, rings: vec![ring_over(&queue)] };
    rings.serve(0, 3, |_| 0);
    assert!(!rings.lock().active && rings.interrupt.needs_reset());
    assert_eq!(rings.interrupt.event().read().unwrap(), 1);
}

#[derive(Clone, Debug)]
struct RawDescriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

fn raw_descriptor() -> impl Strategy<Value = RawDescriptor> {
    let address = prop_oneof![0..RAM_BYTES, RAM_BYTES - 64..RAM_BYTES + 64, any::<u64>()];
    let bytes = prop_oneof![0u32..64, 0..1u32 << 16, any::<u32>()];
    let flags = prop_oneof![0u16..8, any::<u16>()];
    let next = prop_oneof![0..SIZE, any::<u16>()];
    (address, bytes, flags, next).prop_map(|(address, bytes, flags, next)| RawDescriptor {
        address,
        bytes,
        flags,
        next,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_ring_is_walked_in_bounded_time(
        descriptors in prop::collection::vec(raw_descriptor(), usize::from(SIZE)),
        heads in prop::collection::vec(prop_oneof![0..SIZE, any::<u16>()], usize::from(SIZE)),
        avail in prop_oneof![0..=SIZE, any::<u16>()],
    ) {
        let ram = ram();
        let queue = DriverQueue::new(&ram, 0, SIZE);
        for (index, raw) in (0..).zip(&descriptors) {
            queue.write_descriptor(index, raw.address, raw.bytes, raw.flags, raw.next);
        }
        for (index, head) in (0u64..).zip(&heads) {
            ram.write_obj(*head, GuestAddress(queue.avail_ring() + 4 + 2 * index)).unwrap();
        }
        ram.write_obj(avail, GuestAddress(queue.avail_ring() + 2)).unwrap();
        let mut ring = ring_over(&queue);
        let mut popped = 0;
        while let Ok(Some(chain)) = ring.pop(&ram) {
            popped += 1;
            prop_assert!(popped <= SIZE);
            let head = chain.head;
            if let Ok(request) = chain.request {
                request.writable.copy_from(&[1; 32]);
                let _ = request.readable.copy_to(&mut [0; 32]);
            }
            prop_assert_eq!(ring.push(&ram, head, 0).is_ok(), head < SIZE);
        }
    }

    #[test]
    fn buffers_behave_as_one_run_of_bytes(
        lengths in prop::collection::vec(1u32..40, 1..8),
        cut in 0usize..320,
        data in prop::collection::vec(any::<u8>(), 0..320),
    ) {
        let ram = ram();
        let mut queue = DriverQueue::new(&ram, 0, SIZE);
        let pieces: Vec<_> = (0..).zip(&lengths).map(|(at, &bytes)| writable(0x9000 + 64 * at, bytes)).collect();
        queue.offer(&pieces);
        let mut all = ring_over(&queue).pop(&ram).unwrap().unwrap().request.unwrap().writable;
        let total: usize = lengths.iter().map(|&bytes| bytes as usize).sum();
        prop_assert_eq!(all.copy_from(&data), data.len().min(total));
        let mut expected = data.clone();
        expected.resize(total, 0);
        match all.take(cut) {
            None => prop_assert!(cut > total && all.bytes() == total),
            Some(head) => {
                let (mut front, mut back) = (vec![0; cut], vec![0; total - cut]);
                prop_assert_eq!((head.copy_to(&mut front), all.copy_to(&mut back)), (cut, total - cut));
                prop_assert_eq!([front, back].concat(), expected);
                head.zero();
                prop_assert_eq!(head.copy_to(&mut vec![1; total]), cut);
                if let Some(last) = all.take_last() {
                    prop_assert_eq!((last.bytes(), all.bytes()), (1, total - cut - 1));
                }
            }
        }
        for (piece, &bytes) in pieces.iter().zip(&lengths) {
            prop_assert_eq!(get(&ram, piece.address + u64::from(bytes), 1), [0], "nothing past a piece is written");
        }
    }
}
