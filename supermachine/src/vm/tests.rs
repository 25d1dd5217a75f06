//! Starts, fallbacks and failures against a fake VMM.

mod fake;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supermachine_config::Config;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::disks::OpenedDevice;
use crate::{
    BakeError, Baked, Baker, DeviceNumber, DiskError, ErrorKind, ExitReason, ExportError, Exported, Image,
    MachineError, StartRecord, chain,
};

/// A host in a directory.
struct Host {
    directory: TempDir,
    machine: Machine,
}

impl Host {
    fn new(behaviour: &str) -> Self {
        Self::with_config(behaviour, "")
    }

    fn with_config(behaviour: &str, more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fake::install(directory.path(), behaviour);
        for name in ["vmlinux", "initrd.cpio"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        // Only files that are a moment old are remembered.
        std::thread::sleep(Duration::from_millis(30));
        let config = config(directory.path(), more);
        // Any file that opens for reading and writing will do: the fake doesn't look.
        let machine = Machine::load_with_kvm(&config, Path::new("/dev/null")).unwrap();
        Self { directory, machine }
    }

    /// Replaces the VMM, which makes it another machine.
    fn become_another(&self, behaviour: &str) {
        fake::install(self.directory.path(), behaviour);
    }

    fn state_dir(&self) -> PathBuf {
        self.directory.path().join("run/vm/one")
    }

    async fn start(&self) -> Result<Vm, StartError> {
        let launch = Launch { state_dir: self.state_dir(), hostname: "guest".to_owned(), ..Launch::default() };
        Vm::start(&self.machine, launch).await
    }

    /// A layer, which is a moment old.
    fn layer(&self, content: &str) -> PathBuf {
        let path = self.directory.path().join("layer");
        fs::write(&path, content).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        path
    }

    async fn start_image(&self, layer: &Path) -> Started {
        let root = RootDisks { layers: vec![layer.to_owned()], ..RootDisks::default() };
        let launch = Launch { state_dir: self.state_dir(), root, ..Launch::default() };
        let vm = Vm::start(&self.machine, launch).await.unwrap();
        let started = vm.started().clone();
        vm.shutdown().await;
        started
    }

    async fn bake_image(&self, layer: &Path) -> Baked {
        let image = Image::new(vec![layer.to_owned()]);
        Baker::new(&self.machine).image(&image, &["true".to_owned()]).await.unwrap()
    }

    async fn fail(&self) -> StartError {
        let error = self.start().await.expect_err("a failed start");
        assert!(!self.state_dir().exists(), "the directory is gone");
        error
    }

    fn only_bake(&self) -> PathBuf {
        let bakes = fs::read_dir(self.machine.store().directory()).unwrap();
        let bakes: Vec<_> = bakes.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(bakes.len(), 1, "{bakes:?}");
        bakes[0].clone()
    }
}

fn config(directory: &Path, more: &str) -> Config {
    let at = |name: &str| directory.join(name).display().to_string();
    let text = format!(
        "[paths]\nvmm = \"{}\"\nkernel = \"{}\"\ninitrd = \"{}\"\nbakes = \"{}\"\nrun = \"{}\"\n{more}",
        at("vmm"),
        at("vmlinux"),
        at("initrd.cpio"),
        at("bakes"),
        at("run")
    );
    Config::parse(Path::new("test.toml"), &text).unwrap()
}

fn is_running(pid: i32) -> bool {
    // A process that has ended and wasn't reaped yet has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn wait_until_gone(pid: i32) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while is_running(pid) {
        assert!(std::time::Instant::now() < deadline, "process {pid} still runs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_first_start_is_cold_and_the_one_after_the_bake_is_restored() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    assert_eq!(vm.started().to_string(), "cold: no bake for this machine key yet");
    assert_eq!(vm.started().kernel_release, "guest");
    vm.shutdown().await;
    let baked = Baker::new(&host.machine).base().await.unwrap();
    assert!(!baked.already_there);
    assert!(Baker::new(&host.machine).base().await.unwrap().already_there);
    let vm = host.start().await.unwrap();
    assert_eq!(vm.started().to_string(), "restored(base)");
    assert_eq!(vm.started().bake, Some(baked.key));
    let Timeline { spawned_us, opened_us, running_us, answered_us, .. } = vm.started().timeline;
    assert!(0 < spawned_us && spawned_us < answered_us);
    assert_eq!((opened_us, running_us), (1, 4));
    assert!(!host.machine.store().remove(&baked.key).unwrap(), "the bake is pinned while a VM runs from it");
    vm.shutdown().await;
    assert!(host.machine.store().remove(&baked.key).unwrap());
    let left: Vec<_> = fs::read_dir(host.directory.path().join("run/bake")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_start_is_written_down_when_it_is_asked_for() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    assert!(!host.state_dir().join("start.json").exists());
    let recorder = vm.recorder();
    recorder.write().unwrap();
    let record = StartRecord::read(&host.state_dir()).unwrap();
    assert_eq!((record.mode, record.pid, record.vcpus), (Mode::Cold, vm.pid(), 1));
    assert_eq!(record.reason, "no bake for this machine key yet");
    let names: Vec<_> = record.phases.iter().map(|phase| phase.name.as_str()).collect();
    let namespace = names.contains(&"network namespace made").then_some("network namespace made");
    let expected = ["VMM spawned", "opened", "mapped", "wired", "running", "agent answered"];
    let expected: Vec<_> = ["bake looked up"].into_iter().chain(namespace).chain(expected).collect();
    assert_eq!(names, expected);
    vm.shutdown().await;
    recorder.write().unwrap();
    assert!(!host.state_dir().exists());
}

#[tokio::test]
async fn shutdown_and_drop_leave_no_process_and_no_directory() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    let (pid, exited) = (vm.pid(), vm.exited());
    assert!(is_running(pid) && host.state_dir().join("console.log").exists());
    assert_eq!(exited.now(), None);
    assert_eq!(vm.shutdown().await.reason, ExitReason::Stopped);
    assert_eq!(exited.wait().await.reason, ExitReason::Stopped);
    assert!(!is_running(pid) && !host.state_dir().exists());
    let vm = host.start().await.unwrap();
    let pid = vm.pid();
    drop(vm);
    assert!(!host.state_dir().exists());
    wait_until_gone(pid).await;
}

#[tokio::test]
async fn a_cancelled_start_leaves_nothing() {
    let host = Host::new("silent");
    let started = tokio::time::timeout(Duration::from_millis(500), host.start()).await;
    assert!(started.is_err());
    assert!(!host.state_dir().exists());
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_behind_its_token() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    let (mut one, two) = (vm.open_stream().unwrap(), vm.open_stream().unwrap());
    assert_ne!(one.token, two.token);
    one.socket.write_all(b"hello").await.unwrap();
    one.socket.shutdown().await.unwrap();
    let mut echoed = Vec::new();
    one.socket.read_to_end(&mut echoed).await.unwrap();
    assert_eq!(echoed, [&one.token.to_le_bytes()[..], b"hello"].concat());
}

#[tokio::test]
async fn an_export_is_whole_or_leaves_nothing() {
    let host = Host::new("gives");
    let target = host.directory.path().join("export");
    let vm = host.start().await.unwrap();
    let exported = vm.exporter(&vm.rootfs(), 6).unwrap().into_directory(&target).await.unwrap();
    assert_eq!(exported, Exported::Written { generation: 7 });
    assert!(target.join("proto/daemon.proto").exists());
    fs::remove_dir_all(&target).unwrap();
    host.become_another("refuses");
    let vm = host.start().await.unwrap();
    let error = vm.exporter(&vm.rootfs(), 6).unwrap().into_directory(&target).await.unwrap_err();
    assert!(matches!(error, ExportError::Agent(_)) && chain(&error).contains("read file"), "{}", chain(&error));
    assert!(!target.exists());
}

#[tokio::test]
async fn disks_come_and_go_with_containers() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    let file = |name: &str| {
        let path = host.directory.path().join(name);
        fs::write(&path, [1; 4096]).unwrap();
        path
    };
    let root = |layer: &str, upper: &str| RootDisks {
        layers: vec![file(layer)],
        upper: Some(file(upper)),
        ..RootDisks::default()
    };
    let first = vm.attach(&root("layer", "one")).await.unwrap();
    let second = vm.attach(&root("layer", "two")).await.unwrap();
    assert_eq!((first.upper_offset_bytes, second.upper_offset_bytes), (0, 4096));
    assert_eq!(first.layers, second.layers);
    let in_use = vm.attach(&root("layer", "two")).await.unwrap_err();
    assert!(matches!(in_use, AttachError::Disk(DiskError::InUse { .. })));
    // The VMM lets go of the file, and another takes its place.
    vm.detach(&first).await.unwrap();
    assert_eq!(vm.attach(&root("other", "one")).await.unwrap().upper_offset_bytes, 0);
    let error = vm.detach(&RootFilesystem { upper_offset_bytes: 8192, ..first.clone() }).await.unwrap_err();
    assert!(matches!(error, DetachError::Agent(_)) && chain(&error).contains("in use"), "{}", chain(&error));
}

#[tokio::test]
async fn block_devices_come_and_go_with_containers() {
    let host = Host::new("");
    let vm = host.start().await.unwrap();
    let devices = |lengths: &[u64]| {
        let device = |bytes: &u64| OpenedDevice {
            path: "/dev/xvdc".into(),
            number: DeviceNumber { major: 7, minor: 3 },
            file: fs::File::open("/dev/null").unwrap(),
            bytes: *bytes,
            writable: *bytes > 512,
        };
        HostDevices(lengths.iter().map(device).collect())
    };
    let first = vm.attach_devices(devices(&[1024, 512])).await.unwrap();
    let told: Vec<_> =
        first.iter().map(|device| (device.offset_bytes, device.length_bytes, device.read_only)).collect();
    assert_eq!(told, [(0, 1024, false), (4096, 512, true)]);
    assert_eq!((first[0].major, first[0].minor), (7, 3));
    // All that are named, or none: the third is refused.
    vm.detach_devices(&first[1..]).await.unwrap();
    let error = vm.attach_devices(devices(&[512, 4608, 1024])).await.unwrap_err();
    assert!(matches!(&error, DeviceError::Vmm { path, .. } if path == Path::new("/dev/xvdc")));
    assert!(chain(&error).contains("no room at 16384"), "{}", chain(&error));
    // The guest keeps what is at 8192, and that keeps nothing else.
    let again = vm.attach_devices(devices(&[512])).await.unwrap();
    assert_eq!(again[0].offset_bytes, 4096);
    let kept = agent_proto::BlockDevice { offset_bytes: 8192, ..Default::default() };
    let error = vm.detach_devices(&[kept, again[0].clone(), first[0].clone()]).await.unwrap_err();
    assert!(matches!(error, DetachError::Agent(_)), "{error}");
    let back = vm.attach_devices(devices(&[512, 512])).await.unwrap();
    assert_eq!((back[0].offset_bytes, back[1].offset_bytes), (0, 4096));
}

#[tokio::test]
async fn what_the_vmm_refuses_takes_no_place() {
    let host = Host::new("full");
    let vm = host.start().await.unwrap();
    let upper = host.directory.path().join("upper");
    fs::write(&upper, [1; 512]).unwrap();
    for _ in 0..2 {
        let root = RootDisks { upper: Some(upper.clone()), ..RootDisks::default() };
        let error = vm.attach(&root).await.unwrap_err();
        assert!(matches!(error, AttachError::Vmm(_)) && chain(&error).contains("at 0"), "{}", chain(&error));
    }
}

#[tokio::test]
async fn an_unusable_bake_is_removed_and_the_start_is_cold() {
    let host = Host::new("bad-bake");
    let key = Baker::new(&host.machine).base().await.unwrap().key;
    let vm = host.start().await.unwrap();
    let expected = format!(
        "cold: bake {key} is corrupt: the virtual machine could not be started: state does not decode; removed"
    );
    assert_eq!(vm.started().to_string(), expected);
    assert_eq!(host.machine.store().list().unwrap(), []);
}

#[tokio::test]
async fn a_bake_whose_guest_dies_or_stays_silent_is_removed_and_the_start_is_cold() {
    let host = Host::new("die-restoring");
    Baker::new(&host.machine).base().await.unwrap();
    let vm = host.start().await.unwrap();
    let started = vm.started().to_string();
    assert!(started.contains("the guest could not be run any further; removed"), "{started}");
    assert_eq!(host.machine.store().list().unwrap(), []);
}

#[tokio::test]
async fn an_image_is_restored_from_its_own_bake_once_there_is_one() {
    let host = Host::new("");
    let layer = host.layer("one");
    let base = Baker::new(&host.machine).base().await.unwrap().key;
    let started = host.start_image(&layer).await;
    let unread = format!("the layer {} wasn't read yet since the host booted or the layer was made", layer.display());
    assert_eq!((started.to_string(), started.reason), ("restored(base)".to_owned(), format!("bake {base}; {unread}")));
    let baked = host.bake_image(&layer).await;
    assert!(!baked.already_there && host.bake_image(&layer).await.already_there);
    let started = host.start_image(&layer).await;
    assert_eq!((started.to_string(), started.bake), ("restored(image)".to_owned(), Some(baked.key)));
    assert_eq!(started.reason, format!("bake {}", baked.key));
    assert_eq!(host.start().await.unwrap().started().to_string(), "restored(base)", "no image, no image's bake");
    let other = host.layer("other");
    assert_eq!(host.start_image(&other).await.reason, format!("bake {base}; {unread}"));
    assert_ne!(host.bake_image(&other).await.key, baked.key);
}

#[tokio::test]
async fn an_image_s_bake_makes_its_base_first() {
    let host = Host::new("");
    let layer = host.layer("one");
    host.bake_image(&layer).await;
    assert_eq!(host.machine.store().list().unwrap().len(), 2);
    assert_eq!(host.start_image(&layer).await.to_string(), "restored(image)");
}

#[tokio::test]
async fn an_unusable_image_s_bake_is_removed_and_the_base_is_restored() {
    let host = Host::new("bad-image");
    let layer = host.layer("one");
    let key = host.bake_image(&layer).await.key;
    let base = host.machine.key().await.unwrap();
    let started = host.start_image(&layer).await;
    let why = "the virtual machine could not be started: state does not decode";
    assert_eq!(started.to_string(), "restored(base)");
    assert_eq!(started.reason, format!("bake {base}; bake {key} is corrupt: {why}; removed"));
    assert_eq!(host.machine.store().list().unwrap().len(), 1);
    assert_eq!(host.start_image(&layer).await.reason, format!("bake {base}; no bake of this image yet"));
}

#[tokio::test]
async fn a_base_that_is_damaged_below_an_image_s_bake_means_a_cold_start_that_says_so() {
    let host = Host::new("");
    let layer = host.layer("one");
    let base = Baker::new(&host.machine).base().await.unwrap().key;
    host.bake_image(&layer).await;
    let memory = host.machine.store().directory().join(base.to_string()).join("memory");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&memory, [8; 4096]).unwrap();
    let why = "the digest of the file `memory` does not match the manifest";
    let started = host.start_image(&layer).await;
    assert_eq!(started.to_string(), format!("cold: bake {base} is corrupt: {why}; removed"));
}

#[tokio::test]
async fn a_flipped_byte_in_a_bake_means_a_cold_start_that_says_so() {
    let host = Host::new("");
    let key = Baker::new(&host.machine).base().await.unwrap().key;
    let memory = host.only_bake().join("memory");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(&memory).unwrap();
    bytes[100] ^= 1;
    fs::write(&memory, bytes).unwrap();
    let vm = host.start().await.unwrap();
    let why = "the digest of the file `memory` does not match the manifest";
    assert_eq!(vm.started().to_string(), format!("cold: bake {key} is corrupt: {why}; removed"));
}

#[tokio::test]
async fn a_bake_of_another_machine_key_is_a_miss() {
    let host = Host::new("");
    let key = Baker::new(&host.machine).base().await.unwrap().key;
    host.become_another("other");
    let vm = host.start().await.unwrap();
    assert_eq!(vm.started().to_string(), "cold: no bake for this machine key yet");
    let ours = host.machine.key().await.unwrap();
    assert_ne!(key, ours);
    vm.shutdown().await;
    fs::rename(host.only_bake(), host.machine.store().directory().join(ours.to_string())).unwrap();
    let started = host.start().await.unwrap().started().to_string();
    assert!(started.starts_with(&format!("cold: bake {ours} is corrupt: it was made for another machine (VMM ")));
    assert!(started.ends_with("); removed"), "{started}");
}

#[tokio::test]
async fn baking_can_be_off() {
    let host = Host::with_config("", "[bake]\nenabled = false");
    let vm = host.start().await.unwrap();
    assert_eq!(vm.started().to_string(), "cold: baking is off (config)");
    assert!(matches!(Baker::new(&host.machine).base().await, Err(BakeError::Off)));
}

#[tokio::test]
async fn a_guest_that_dies_booting_is_reported_with_its_last_words() {
    let host = Host::new("die");
    let error = host.fail().await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(
        chain(&error),
        "the virtual machine could not be started: the virtual machine monitor ended: the guest could not be run any \
         further (triple fault); the guest's last lines: Linux version 6 | last line"
    );
}

#[tokio::test]
async fn a_silent_agent_is_given_up() {
    let host = Host::with_config("silent", "[vm]\nanswer_within_seconds = 1");
    let error = host.fail().await;
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded);
    let expected = "the guest's agent gave no answer within 1 s; the guest's last lines: Linux version 6 | last line";
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn a_refused_kernel_and_unusable_kvm_keep_the_vmms_words() {
    let error = Host::new("bad-kernel").fail().await;
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(chain(&error), "the virtual machine could not be started: not an ELF file");
    let error = Host::new("no-kvm").fail().await;
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(chain(&error).contains("KVM_CAP_IRQFD is missing; see `dmesg"), "{}", chain(&error));
}

#[tokio::test]
async fn a_vmm_that_cannot_run_names_its_path() {
    let host = Host::new("");
    fs::write(host.directory.path().join("vmm"), "no program").unwrap();
    let error = chain(&host.fail().await);
    assert!(
        error.contains(&format!("cannot run {}/vmm; run `make install`", host.directory.path().display())),
        "{error}"
    );
}

#[test]
fn missing_files_are_named_with_key_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    fake::install(directory.path(), "");
    let config = config(directory.path(), "");
    let error = Machine::load_with_kvm(&config, Path::new("/dev/null")).unwrap_err();
    let path = directory.path().join("vmlinux");
    assert_eq!(
        error.to_string(),
        format!(
            "the guest kernel {} can't be read; run `make install`, or set `paths.kernel` in test.toml",
            path.display()
        )
    );
    fs::write(&path, "").unwrap();
    fs::write(directory.path().join("initrd.cpio"), "").unwrap();
    let error = Machine::load_with_kvm(&config, Path::new("/nonexistent/kvm")).unwrap_err();
    assert!(matches!(error, MachineError::Kvm(_)));
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
}
