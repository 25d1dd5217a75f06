use crate::driver::{
    DriverQueue, bring_up, clone_ram, get, kick, ram, readable, wait_complete, wait_interrupt, writable,
};
use crate::layout::RNG_SLOT;
use crate::{Backings, DeviceSet, Window};

#[test]
fn requests_are_filled_up_to_the_limit() {
    let ram = ram();
    let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
    let mut queue = DriverQueue::new(&ram, 0x1000, 16);
    bring_up(&set, RNG_SLOT, &[&queue]);
    set.start(|| (), || ()).unwrap();
    for (pieces, expected) in [
        (vec![writable(0x8000, 32), writable(0x9000, 32)], 64),
        (vec![writable(0x8000, 1 << 20)], 1024),
        (vec![readable(0x8000, 16)], 0),
    ] {
        let (head, wanted) = queue.offer(&pieces);
        if wanted {
            kick(&set, RNG_SLOT, 0);
        }
        assert_eq!(wait_complete(&set, RNG_SLOT, &mut queue), (head, expected));
    }
    assert_ne!(get(&ram, 0x9000, 32), [0; 32]);
    assert_eq!(get(&ram, 0x8400, 16), [0; 16], "nothing past the limit");
}

#[test]
fn two_restores_of_one_state_give_different_bytes() {
    let ram = ram();
    let set = DeviceSet::new(ram.clone(), &Window::default(), Backings::default()).unwrap();
    let mut queue = DriverQueue::new(&ram, 0x1000, 16);
    bring_up(&set, RNG_SLOT, &[&queue]);
    set.start(|| (), || ()).unwrap();
    queue.offer(&[writable(0x8000, 32)]);
    kick(&set, RNG_SLOT, 0);
    wait_complete(&set, RNG_SLOT, &mut queue);
    set.quiesce().unwrap();
    // A request that nobody served before the capture.
    assert!(!queue.arm());
    queue.offer(&[writable(0xa000, 32)]);
    let bytes = postcard::to_stdvec(&set.save().unwrap()).unwrap();
    let restore = || {
        let copy = clone_ram(&ram);
        let restored = DeviceSet::restore(
            postcard::from_bytes(&bytes).unwrap(),
            copy.clone(),
            &Window::default(),
            Backings::default(),
        )
        .unwrap();
        assert_eq!(restored.save().unwrap(), set.save().unwrap());
        restored.start(|| (), || ()).unwrap();
        assert_eq!(wait_interrupt(&restored, RNG_SLOT), 1);
        get(&copy, 0xa000, 32)
    };
    let (one, other) = (restore(), restore());
    assert_ne!(one, other);
    assert_ne!(one, vec![0; 32]);
}
