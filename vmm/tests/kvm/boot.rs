//! A kernel boots to user space, and every way in which a guest can end is told apart.

use vmm_api::{Shape, exit_code};

use crate::support::Vmm;

const SHAPE: Shape = Shape { memory_bytes: 256 << 20, vcpus: 1 };

/// Boots with an init script that ends with `last`, and returns the VMM's exit code.
fn boot_and_end(last: &str) -> Option<i32> {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    let timeline = vmm.boot(&format!("echo in user space\n{last}"), SHAPE);
    assert!(timeline.running_us > timeline.wired_us && timeline.wired_us > timeline.mapped_us);
    vmm.await_console("greeting", |text| text.contains("in user space"));
    vmm.await_exit().code()
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_reset_ends_the_process() {
    assert_eq!(boot_and_end("exec reboot -f"), Some(exit_code::GUEST_GONE));
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_power_off_ends_the_process() {
    assert_eq!(boot_and_end("exec poweroff -f"), Some(exit_code::GUEST_GONE));
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_panic_ends_the_process() {
    assert_eq!(boot_and_end("exit 3"), Some(exit_code::GUEST_GONE));
}
