//! Where the time of a start goes.

use super::*;

#[tokio::test]
async fn every_step_of_a_start_notes_its_end_once() {
    let bench = Bench::new().await;
    bench.create(&["exit", "0"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 0);
    // One that is refused is no part of it.
    assert_eq!(code(bench.start("").await), Code::FAILED_PRECONDITION);
    let phases = bench.launcher.launched.lock().unwrap()[0].0.trace.phases();
    let names: Vec<_> = phases.iter().map(|phase| phase.name.as_str()).collect();
    // Between those of the disks and of the hooks are those of the VM, which is a fake.
    let expected = [
        "bundle read",
        "disks found",
        "hooks run",
        "network connected",
        "container made",
        "Create answered",
        "Start received",
        "process started",
    ];
    assert_eq!(names, expected);
}
