//! A host in a directory, for tests.

use std::fs;
use std::io::Write;
use std::path::Path;

use supermachine::{Digest, Extent, Key, Level, MachineFacts, Mode, Owner, Phase, StartRecord, Subject};
use supermachine_config::Config;
use tempfile::TempDir;

use crate::bakes::Fits;
use crate::host::Host;

pub(crate) struct Fixture {
    directory: TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("run/vm")).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn config(&self) -> Config {
        let at = |name: &str| self.path().join(name).display().to_string();
        let text = format!(
            "[paths]\nvmm = \"{}\"\nkernel = \"{}\"\ninitrd = \"{}\"\nbakes = \"{}\"\nrun = \"{}\"\nsnapshotter = \"{}\"\n",
            at("bin/supermachine-vmm"),
            at("share/vmlinux"),
            at("share/initrd.cpio"),
            at("bakes"),
            at("run"),
            at("snapshotter"),
        );
        Config::parse(Path::new("test.toml"), &text).unwrap()
    }

    pub(crate) fn host(&self) -> Host {
        Host::new(self.config())
    }

    /// Publishes a small base bake.
    pub(crate) fn publish(&self, facts: MachineFacts) -> Key {
        self.publish_of(Subject::base(facts))
    }

    /// Publishes one of an image over that.
    pub(crate) fn publish_image(&self, facts: MachineFacts) -> Key {
        self.publish_of(image(facts))
    }

    /// Publishes one of a container over that.
    pub(crate) fn publish_warm(&self, facts: MachineFacts) -> Key {
        let Subject { facts, layers, .. } = image(facts);
        self.publish_of(Subject::warm(facts, layers, Digest([2; 32])))
    }

    fn publish_of(&self, subject: Subject) -> Key {
        let over = |parent: Subject| self.host().store.manifest(&parent.key()).unwrap().memory.digest;
        let over = subject.parent().map(over);
        let mut draft = self.host().store.draft().unwrap();
        draft.state.write_all(b"registers").unwrap();
        draft.memory.write_all(&[7; 2 * 4096]).unwrap();
        if subject.level() == Level::Warm {
            let disk = tempfile::tempfile().unwrap();
            disk.set_len(2 * 4096).unwrap();
            draft.keep_disk(&disk).unwrap();
        }
        let extent = Extent { guest_page: 3, file_page: 0, pages: 2 };
        draft.publish(subject, over, vec![extent]).unwrap().key()
    }

    /// Leaves the record of a machine.
    pub(crate) fn add_machine(&self, record: &StartRecord) {
        let directory = self.config().paths.sandbox(&record.namespace, &record.id);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("start.json"), serde_json::to_vec(record).unwrap()).unwrap();
    }
}

pub(crate) fn facts() -> MachineFacts {
    MachineFacts {
        architecture: "x86_64".into(),
        backend: "kvm-12".into(),
        cpu_vendor: "AuthenticAMD".into(),
        cpu_family: 15,
        cpu_model: 107,
        cpu_stepping: 1,
        cpuid: Digest([1; 32]),
        tsc_khz: 1_000_000,
        host_kernel: "6.12".into(),
        vmm: Digest([2; 32]),
        kernel: Digest([3; 32]),
        initrd: Digest([4; 32]),
        device_layout: 1,
        memory_bytes: 256 << 20,
        vcpus: 1,
        cmdline: "quiet".into(),
    }
}

fn image(facts: MachineFacts) -> Subject {
    Subject::image(facts, vec![Digest([1; 32])])
}

pub(crate) fn fits(facts: MachineFacts) -> Fits {
    Fits::Known(Box::new(facts))
}

pub(crate) fn record(id: &str) -> StartRecord {
    let phase = |name: &str, owner, began_us, took_us| Phase { name: name.into(), owner, began_us, took_us };
    StartRecord {
        version: 1,
        namespace: "default".into(),
        id: id.into(),
        joined: false,
        mode: Mode::Restored(Level::Base),
        reason: format!("bake {}", facts().key()),
        bake: Some(facts().key()),
        memory_bytes: 256 << 20,
        vcpus: 1,
        pid: 10,
        began_unix_us: 1_700_000_000_000_000,
        agent_version: "0.1.0".into(),
        kernel_release: "6.12.57".into(),
        phases: vec![
            phase("bundle read", Owner::Shim, 0, 812),
            phase("VMM spawned", Owner::Shim, 812, 2100),
            phase("running", Owner::Vmm, 2912, 9000),
            phase("agent answered", Owner::Guest, 11_912, 3088),
        ],
    }
}
