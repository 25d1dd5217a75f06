//! A running VMM sees nothing of its host.

use std::fs::OpenOptions;
use std::os::fd::AsFd;

use vmm_api::{Fd, Reply, Request, Shape, exit_code};

use crate::support::Vmm;

#[test]
#[ignore = "needs root, /dev/kvm and a guest kernel"]
fn a_running_vmm_has_an_empty_root_and_no_privileges() {
    let folder = tempfile::tempdir().unwrap();
    let mut vmm = Vmm::spawn(&folder.path().join("console"));
    vmm.boot("echo up; sleep 1000", Shape { memory_bytes: 128 << 20, added_bytes: 0, vcpus: 2 });
    // The threads restrict themselves while the guest begins to boot.
    vmm.await_console("greeting", |text| text.contains("up"));
    let process = format!("/proc/{}", vmm.pid());
    for task in std::fs::read_dir(format!("{process}/task")).unwrap() {
        let task = task.unwrap().path();
        assert_eq!(std::fs::read_dir(task.join("root")).unwrap().count(), 0, "{task:?} has files in its root");
        assert_eq!(std::fs::read_to_string(task.join("mountinfo")).unwrap().lines().count(), 1);
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(line(set), "0000000000000000", "{task:?} {set}");
        }
        assert_eq!(line("NoNewPrivs:"), "1");
        assert_eq!(line("Seccomp:"), "2", "{task:?} may make any system call");
    }
    // A network of its own, without anything but the loopback interface that every namespace has.
    let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_ne!(network(&vmm.pid().to_string()), network("self"));
    let interfaces = std::fs::read_to_string(format!("{process}/net/dev")).unwrap();
    let interfaces: Vec<_> =
        interfaces.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    assert_eq!(interfaces, ["lo"]);
    // The host still has its mounts.
    assert!(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count() > 1);
    // What a running VMM is asked for is still possible.
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    let described = vmm.ask(&Request::Describe { kvm: Fd(0) }, &[kvm.as_fd()]);
    assert!(matches!(described, Reply::Described(_)), "{described:?}");
    assert_eq!(vmm.shut_down().code(), Some(exit_code::STOPPED));
}
