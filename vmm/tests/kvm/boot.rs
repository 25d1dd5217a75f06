//! A kernel boots to user space, and the ways in which a guest can end are told apart.

use vmm_api::{Shape, exit_code};

use crate::support::Vmm;

const SHAPE: Shape = Shape { memory_bytes: 256 << 20, added_bytes: 0, vcpus: 1 };

/// Boots with an init script and returns the VMM's exit code and what was on the console.
fn boot_and_end(script: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    let timeline = vmm.boot(script, SHAPE);
    assert!(timeline.running_us > timeline.wired_us && timeline.wired_us > timeline.mapped_us);
    let code = vmm.await_exit().code();
    (code, vmm.console_text())
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_reset_ends_the_process() {
    // By the kernel's log, which is on the console before the next command: what a program writes there itself may be under
    // way when the machine ends.
    let (code, console) = boot_and_end("echo '<1>in user space' >/dev/kmsg\nreboot -f");
    assert_eq!(code, Some(exit_code::GUEST_GONE), "{console}");
    assert!(console.contains("in user space"), "{console}");
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_power_off_ends_the_process() {
    assert_eq!(boot_and_end("poweroff -f").0, Some(exit_code::GUEST_GONE));
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_panic_ends_the_process() {
    let (code, console) = boot_and_end("exit 3");
    assert_eq!(code, Some(exit_code::GUEST_GONE), "{console}");
    assert!(console.contains("Attempted to kill init"), "{console}");
}
