use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;

use crate::driver::{DriverQueue, bring_up, configure, negotiate, put, ram, read_register, writable, write_register};
use crate::layout::{
    FILES_SLOT, LAYERS_SLOT, MMIO_BASE, MMIO_BYTES, NET_SLOTS, RNG_SLOT, SLOTS, UPPER_SLOT, VSOCK_SLOT, slot_address,
};
use crate::{Backings, DeviceSet, Window};

fn set() -> DeviceSet {
    DeviceSet::new(ram(), &Window::default(), Backings::default()).unwrap()
}

fn status(set: &DeviceSet, slot: usize) -> u32 {
    read_register(set, slot, reg::VIRTIO_MMIO_STATUS)
}

#[test]
fn every_slot_says_what_it_is() {
    let set = set();
    for (slot, device) in [
        (LAYERS_SLOT, 2),
        (UPPER_SLOT, 2),
        (VSOCK_SLOT, 19),
        (RNG_SLOT, 4),
        (NET_SLOTS[0], 1),
        (NET_SLOTS[3], 1),
        (FILES_SLOT, 26),
    ] {
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_VERSION), 2);
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_DEVICE_ID), device);
        assert_eq!(read_register(&set, slot, reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    }
    let lines: Vec<u32> = (0..SLOTS).map(|slot| set.interrupt(slot).0).collect();
    assert_eq!(lines, [5, 6, 7, 8, 9, 10, 11, 12, 13]);
    let notifiers: Vec<(u64, u32)> =
        (0..SLOTS).flat_map(|slot| set.notifiers(slot)).map(|(address, queue, _)| (address, queue)).collect();
    let queues = [1, 1, 3, 1, 2, 2, 2, 2, 2];
    let expected: Vec<(u64, u32)> = (0..)
        .zip(queues)
        .flat_map(|(slot, queues)| (0..queues).map(move |queue| (0xd000_0050 + 0x1000 * slot, queue)))
        .collect();
    assert_eq!(notifiers, expected);
}

#[test]
fn what_does_not_exist_reads_as_zeros() {
    let set = set();
    for address in [0, MMIO_BASE - 8, MMIO_BASE + MMIO_BYTES, u64::MAX - 15, slot_address(0) + 0xff8] {
        let mut data = [1; 8];
        set.mmio_read(address, &mut data);
        assert_eq!(data, [0; 8], "{address:#x}");
        set.mmio_write(address, &[1; 4]);
        set.mmio_write(address, &[]);
    }
    // The configuration space is readable in any width, and past its end.
    let mut capacity = [0; 8];
    set.mmio_read(slot_address(LAYERS_SLOT) + 0x100, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 1);
    let mut byte = [9];
    set.mmio_read(slot_address(VSOCK_SLOT) + 0x100, &mut byte);
    assert_eq!(byte, [3]);
    set.mmio_read(slot_address(VSOCK_SLOT) + 0x108, &mut byte);
    assert_eq!(byte, [0]);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    let set = set();
    for status in [1, 3] {
        write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, status);
    }
    for half in 0..2 {
        write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    }
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 11);
    assert_eq!(status(&set, RNG_SLOT), 3);
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(status(&set, RNG_SLOT), 3, "the device can't become active without agreement");
}

#[test]
fn a_queue_can_be_configured_only_between_agreement_and_activation() {
    let set = set();
    let queue = DriverQueue::new(&ram(), 0x1000, 16);
    let ready = || {
        write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_QUEUE_SEL, 0);
        read_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_QUEUE_READY)
    };
    configure(&set, RNG_SLOT, 0, &queue);
    assert_eq!(ready(), 0, "before agreement");
    negotiate(&set, RNG_SLOT, 0);
    configure(&set, RNG_SLOT, 0, &queue);
    assert_eq!(ready(), 1);
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 15);
    let saved = set.save().unwrap();
    configure(&set, RNG_SLOT, 0, &DriverQueue::new(&ram(), 0x9000, 8));
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(set.save().unwrap(), saved, "after activation");
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!((ready(), status(&set, RNG_SLOT)), (0, 0));
    bring_up(&set, RNG_SLOT, &[&queue]);
}

#[test]
fn a_queue_outside_of_ram_makes_the_device_ask_for_a_reset() {
    let set = set();
    negotiate(&set, RNG_SLOT, 0);
    configure(&set, RNG_SLOT, 0, &DriverQueue::new(&ram(), 0x7fff_0000, 16));
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(status(&set, RNG_SLOT), 15 | 64);
    assert_eq!(read_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_INTERRUPT_STATUS), 3);
    set.start(|| (), || ()).unwrap();
    set.quiesce().unwrap();
    let state = set.save().unwrap();
    let restored = DeviceSet::restore(state.clone(), ram(), &Window::default(), Backings::default()).unwrap();
    assert_eq!((restored.save().unwrap(), status(&restored, RNG_SLOT)), (state, 79));
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(status(&set, RNG_SLOT), 0);
}

#[test]
fn state_is_refused_while_workers_run() {
    let set = set();
    set.start(|| (), || ()).unwrap();
    set.start(|| (), || ()).unwrap();
    assert!(matches!(set.save(), Err(crate::DeviceError::Running)));
    set.quiesce().unwrap();
    set.quiesce().unwrap();
    set.save().unwrap();
}

#[derive(Clone, Debug)]
enum Access {
    Read { address: u64, bytes: usize },
    Write { address: u64, bytes: Vec<u8> },
}

fn address() -> impl Strategy<Value = u64> {
    let register = (0..SLOTS, 0u64..0x140).prop_map(|(slot, register)| slot_address(slot) + register);
    let aligned = (0..SLOTS, 0u64..0x40).prop_map(|(slot, register)| slot_address(slot) + register * 4);
    prop_oneof![6 => aligned, 2 => register, 1 => MMIO_BASE - 8..MMIO_BASE + MMIO_BYTES + 8, 1 => any::<u64>()]
}

fn access() -> impl Strategy<Value = Access> {
    let word = prop_oneof![0u32..16, Just(11), Just(15), 0u32..0x2_0000, any::<u32>()];
    prop_oneof![
        4 => (address(), word).prop_map(|(address, value)| Access::Write { address, bytes: value.to_le_bytes().into() }),
        1 => (address(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(address, bytes)| Access::Write { address, bytes }),
        1 => (address(), 0usize..9).prop_map(|(address, bytes)| Access::Read { address, bytes }),
    ]
}

fn play(set: &DeviceSet, accesses: &[Access]) {
    for access in accesses {
        match access {
            Access::Read { address, bytes } => set.mmio_read(*address, &mut vec![0; *bytes]),
            Access::Write { address, bytes } => set.mmio_write(*address, bytes),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_register_accesses_leave_a_state_that_restores(
        accesses in prop::collection::vec(access(), 0..200),
        junk in prop::collection::vec(any::<u8>(), 4096),
    ) {
        let ram = ram();
        put(&ram, 0, &junk);
        let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
        set.start(|| (), || ()).unwrap();
        play(&set, &accesses);
        for slot in 0..SLOTS {
            write_register(&set, slot, reg::VIRTIO_MMIO_STATUS, 0);
            prop_assert_eq!(status(&set, slot), 0);
            negotiate(&set, slot, 0);
        }
        play(&set, &accesses);
        set.quiesce().unwrap();
        let state = set.save().unwrap();
        let restored = DeviceSet::restore(state.clone(), ram, &Window::default(), Backings::default()).unwrap();
        prop_assert_eq!(restored.save().unwrap(), state);
    }

    #[test]
    fn any_saved_bytes_are_accepted_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let set = set();
        let queues = [16u16, 128, 128, 16].map(|size| DriverQueue::new(&ram(), 0x1_0000 + 0x4000 * u64::from(size), size));
        bring_up(&set, RNG_SLOT, &[&queues[0]]);
        bring_up(&set, VSOCK_SLOT, &[&queues[1], &queues[2], &queues[3]]);
        let mut bytes = postcard::to_stdvec(&set.save().unwrap()).unwrap();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(state) = postcard::from_bytes(&bytes)
            && let Ok(restored) = DeviceSet::restore(state, ram(), &Window::default(), Backings::default())
        {
            restored.start(|| (), || ()).unwrap();
            restored.quiesce().unwrap();
            let state = restored.save().unwrap();
            DeviceSet::restore(state, ram(), &Window::default(), Backings::default()).unwrap();
        }
    }
}

#[test]
fn a_notification_may_come_as_a_register_write() {
    let ram = ram();
    let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
    let mut queue = DriverQueue::new(&ram, 0x1000, 16);
    bring_up(&set, RNG_SLOT, &[&queue]);
    set.start(|| (), || ()).unwrap();
    queue.offer(&[writable(0x8000, 32)]);
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    write_register(&set, RNG_SLOT, reg::VIRTIO_MMIO_QUEUE_NOTIFY, 7);
    crate::driver::wait_complete(&set, RNG_SLOT, &mut queue);
}
