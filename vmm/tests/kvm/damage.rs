//! A damaged bake is refused with a reason, by a process that ends in an orderly way; callers boot cold instead.

use std::os::unix::fs::FileExt;

use vmm_api::{Failure, FailureKind, MemoryExtent, Reply, Shape, exit_code};

use crate::support::{Bake, Vmm};

const SHAPE: Shape = Shape { memory_bytes: 128 << 20, added_bytes: 0, vcpus: 1 };

fn bake() -> Bake {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    vmm.boot("echo up; while :; do sleep 1; done", SHAPE);
    vmm.await_console("greeting", |text| text.contains("up"));
    let bake = vmm.capture();
    assert_eq!(vmm.shut_down().code(), Some(exit_code::STOPPED));
    bake
}

/// Restores and returns the refusal, if it was refused.
fn refusal(bake: &Bake) -> Option<Failure> {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    match vmm.try_restore(bake) {
        Reply::Failed(failure) => {
            assert_eq!(vmm.await_exit().code(), Some(exit_code::START_FAILED));
            Some(failure)
        }
        Reply::Running(_) => None,
        other => panic!("neither started nor refused: {other:?}"),
    }
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn damage_is_refused() {
    let mut bake = bake();
    assert_eq!(refusal(&bake), None);

    let good = bake.extents.clone();
    for bad in [
        MemoryExtent { guest_page: 0, file_page: 1 << 40, pages: 1 },
        MemoryExtent { guest_page: 1 << 40, file_page: 0, pages: 1 },
        MemoryExtent { guest_page: 0, file_page: 0, pages: u64::MAX },
    ] {
        bake.extents = vec![bad];
        assert_eq!(refusal(&bake).map(|failure| failure.kind), Some(FailureKind::BadBake), "{bad:?}");
    }
    bake.extents = good;

    bake.shape.memory_bytes *= 2;
    assert_eq!(refusal(&bake).map(|failure| failure.kind), Some(FailureKind::BadBake));
    bake.shape.memory_bytes /= 2;

    let size = bake.state().metadata().unwrap().len();
    bake.state().set_len(size - 1).unwrap();
    assert_eq!(refusal(&bake).map(|failure| failure.kind), Some(FailureKind::BadBake));
}

/// Whatever the state file holds, the process says so or runs a guest that may crash; it never panics or hangs.
#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn no_state_panics_the_process() {
    let bake = bake();
    let size = bake.state().metadata().unwrap().len();
    for offset in (0..size).step_by((size / 40) as usize) {
        let mut byte = [0];
        bake.state().read_exact_at(&mut byte, offset).unwrap();
        bake.state().write_all_at(&[!byte[0]], offset).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut vmm = Vmm::spawn(&folder.path().join("console"));
        if let Reply::Failed(_) = vmm.try_restore(&bake) {
            assert_eq!(vmm.await_exit().code(), Some(exit_code::START_FAILED), "byte {offset}");
        } else {
            let code = vmm.end();
            let orderly = [exit_code::STOPPED, exit_code::GUEST_GONE, exit_code::GUEST_CRASHED].map(Some);
            assert!(orderly.contains(&code), "byte {offset}: exit code {code:?}");
        }
        bake.state().write_all_at(&byte, offset).unwrap();
    }
    assert_eq!(refusal(&bake), None);
}
