//! A VMM ends at once when it is told to or left alone, whatever its guest is doing, and never outlives its caller.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use vmm_api::{Pages, Reply, Shape, exit_code};

use crate::support::Vmm;

const SHAPE: Shape = Shape { memory_bytes: 128 << 20, added_bytes: 0, vcpus: 2 };
/// Ample for an emulated machine to end one process, and far below any time limit inside of the VMM.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Both vCPUs spin and write to the console.
const BUSY: &str = "echo up; (while :; do echo a; done) & while :; do echo b; done";

fn booted(folder: &tempfile::TempDir, script: &str) -> Vmm {
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    vmm.boot(script, SHAPE);
    vmm.await_console("greeting", |text| text.contains("up"));
    vmm
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_caller_that_is_gone_takes_the_process_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = booted(&folder, BUSY);
    // A connection that the guest never answers is no reason to stay.
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(vmm.connect(1024, &theirs), Reply::Connecting);
    drop(theirs);
    let since = Instant::now();
    vmm.hang_up();
    assert_eq!(vmm.await_exit().code(), Some(exit_code::STOPPED));
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
    assert_eq!(ours.read(&mut [0]).unwrap(), 0, "the connection ends with the process");
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_guest_that_never_gives_up_its_vcpus_can_be_shut_down() {
    let folder = tempfile::tempdir().unwrap();
    let vmm = booted(&folder, BUSY);
    let since = Instant::now();
    assert_eq!(vmm.shut_down().code(), Some(exit_code::STOPPED));
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}

#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_termination_signal_ends_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = booted(&folder, BUSY);
    let since = Instant::now();
    vmm.signal("TERM");
    assert_eq!(vmm.await_exit().signal(), Some(15));
    assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
}

/// A guest that powers off while it is being captured is captured whole or not at all.
#[test]
#[ignore = "needs /dev/kvm and a guest kernel"]
fn a_guest_that_ends_during_a_capture_is_not_captured_dead() {
    for delay in [0, 1, 3, 6] {
        let folder = tempfile::tempdir().unwrap();
        let vmm = booted(&folder, "echo up; poweroff -f");
        std::thread::sleep(Duration::from_millis(delay));
        let Ok(bake) = vmm.try_capture(Pages::All) else { continue };
        let mut again = Vmm::spawn(&folder.path().join("again"));
        again.restore(&bake);
        assert_eq!(again.await_exit().code(), Some(exit_code::GUEST_GONE), "captured {delay} ms after the greeting");
    }
}
