//! What the rest of the program sees.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::annotations::AnnotationKey;
use crate::bytes::Bytes;
use crate::error::ConfigError;
use crate::raw::{Raw, hint};
use crate::{CONFIG_ENV, CONFIG_FILE};

/// Guest kernel command line: console for the VM's log, reset on panic (the VMM takes a reset for "gone"), no probing
/// of timers that aren't there, randomness from the host's seed alone, no network interfaces that nobody asked for, no
/// interrupt when a frame was sent, two pages at most for objects of one kind where they fit: a bake has what is begun of
/// each; nobody waits for ticks until no other CPU uses what is to be changed (RCU): the few that there are are asked; and
/// memory that is added holds its own page descriptors (`kernel/patches/memory.patch`).
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 quiet loglevel=4 reboot=k panic=-1 no_timer_check random.trust_cpu=off \
    dummy.numdummies=0 ifb.numifbs=0 virtio_net.napi_tx=0 slab_max_order=1 rcupdate.rcu_expedited=1 \
    memory_hotplug.memmap_on_memory=1";

/// Smallest guest, in bytes.
const MIN_MEMORY: Bytes = Bytes::mebibytes(64);
/// Largest guest, in bytes.
pub const MAX_MEMORY: Bytes = Bytes(1 << 40);
/// Guest memory comes in huge pages.
pub const MEMORY_STEP: u64 = 2 << 20;
/// Most virtual CPUs of a machine.
pub const MAX_VCPUS: u8 = 64;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file these values came from, or would come from if it existed.
    pub file: PathBuf,
    /// Where things are.
    pub paths: Paths,
    /// Shape of the virtual machine.
    pub vm: Vm,
    /// Bakes.
    pub bake: Baking,
    /// Writable layers.
    pub upper: Upper,
    /// Logs.
    pub log: Log,
    /// Keys that a container's annotations may override.
    pub allowed_annotations: Vec<AnnotationKey>,
}

/// Files, directories and sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `supermachine-vmm`.
    pub vmm: PathBuf,
    /// Guest kernel (ELF `vmlinux`).
    pub kernel: PathBuf,
    /// Initial ramdisk holding the agent.
    pub initrd: PathBuf,
    /// The bake store.
    pub bakes: PathBuf,
    /// State that does not survive a reboot.
    pub run: PathBuf,
    /// The snapshotter's root directory.
    pub snapshotter: PathBuf,
    /// Socket of the Snapshots service (gRPC).
    pub snapshotter_socket: PathBuf,
    /// Socket of the daemon (ttrpc).
    pub daemon_socket: PathBuf,
}

impl Paths {
    /// Directory of one sandbox's state: `<run>/vm/<namespace>-<id>`.
    pub fn sandbox(&self, namespace: &str, id: &str) -> PathBuf {
        self.sandboxes().join(format!("{namespace}-{id}"))
    }

    /// Directory of those directories.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("vm")
    }

    /// Template that writable layers are cloned from.
    pub fn upper_template(&self) -> PathBuf {
        self.snapshotter.join("upper-template.ext4")
    }
}

/// Shape of the virtual machine. Part of the machine key: every combination has its own bake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Guest memory, a multiple of 2 MiB.
    pub memory: Bytes,
    /// Virtual CPUs, 1 to 64.
    pub vcpus: u8,
    /// Guest kernel command line.
    pub cmdline: String,
    /// How long a started VM's agent may take to answer before the start is given up.
    pub answer_within: Duration,
}

/// Bakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Baking {
    /// Whether VMs are restored at all and bakes made. Off, every start is a cold boot.
    pub enabled: bool,
    /// Whether the daemon bakes the configured machine when it starts, rather than after the first cold start.
    pub ahead: bool,
    /// How much of the disk all bakes may take. When a new one makes it more, those go that haven't been used for longest.
    pub quota: Bytes,
}

/// Writable layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upper {
    /// Capacity of a container's writable layer.
    pub size: Bytes,
}

/// Logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A `tracing` filter such as `info` or `supermachine=debug`.
    pub level: String,
}

impl Config {
    /// Reads the file named by `SUPERMACHINE_CONFIG`, or else `/etc/supermachine/config.toml`. A default file that
    /// doesn't exist stands for the defaults; a named one must exist.
    pub fn load() -> Result<Self, ConfigError> {
        match std::env::var_os(CONFIG_ENV) {
            Some(file) => Self::load_from(Path::new(&file)),
            None => match Self::load_from(Path::new(CONFIG_FILE)) {
                Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Self::defaults(),
                result => result,
            },
        }
    }

    /// Reads one file, which must exist.
    pub fn load_from(file: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
        Self::parse(file, &text)
    }

    /// The built-in values.
    pub fn defaults() -> Result<Self, ConfigError> {
        Self::parse(Path::new(CONFIG_FILE), "")
    }

    /// Resolves the text of a file; `file` is what errors name.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut raw = Raw::parse(file, text)?;
        let config = Self {
            file: file.to_owned(),
            paths: paths(&mut raw)?,
            vm: Vm {
                memory: raw.size("vm.memory", Bytes::mebibytes(256))?,
                vcpus: u8::try_from(raw.number("vm.vcpus", 1, 1..=MAX_VCPUS.into())?).unwrap_or(1),
                cmdline: raw.text("vm.cmdline", DEFAULT_CMDLINE)?,
                answer_within: Duration::from_secs(raw.number("vm.answer_within_seconds", 60, 1..=3600)?),
            },
            bake: Baking {
                enabled: raw.switch("bake.enabled", true)?,
                ahead: raw.switch("bake.ahead", true)?,
                quota: raw.size("bake.quota", Bytes(4 << 30))?,
            },
            upper: Upper { size: raw.size("upper.size", Bytes(8 << 30))? },
            log: Log { level: raw.text("log.level", "info")? },
            allowed_annotations: allowed_annotations(&mut raw, file)?,
        };
        raw.finish()?;
        check_memory(config.vm.memory, &file.display().to_string())?;
        check_upper(config.upper.size, &file.display().to_string())?;
        Ok(config)
    }
}

impl Config {
    /// This configuration with a machine of another size; `origin` is what errors name.
    pub fn with_shape(mut self, memory: Bytes, vcpus: u8, origin: &str) -> Result<Self, ConfigError> {
        check_memory(memory, origin)?;
        if !(1..=MAX_VCPUS).contains(&vcpus) {
            return Err(ConfigError::BadValue {
                origin: origin.to_owned(),
                key: "vm.vcpus".to_owned(),
                found: vcpus.to_string(),
                remedy: "write a number from 1 to 64".to_owned(),
            });
        }
        (self.vm.memory, self.vm.vcpus) = (memory, vcpus);
        Ok(self)
    }
}

fn paths(raw: &mut Raw) -> Result<Paths, ConfigError> {
    Ok(Paths {
        vmm: raw.path("paths.vmm", "/opt/supermachine/bin/supermachine-vmm")?,
        kernel: raw.path("paths.kernel", "/opt/supermachine/share/vmlinux")?,
        initrd: raw.path("paths.initrd", "/opt/supermachine/share/initrd.cpio")?,
        bakes: raw.path("paths.bakes", "/var/lib/supermachine/bakes")?,
        run: raw.path("paths.run", "/run/supermachine")?,
        snapshotter: raw.path("paths.snapshotter", "/var/lib/supermachine/snapshotter")?,
        snapshotter_socket: raw.path("paths.snapshotter_socket", "/run/supermachine/snapshotter.sock")?,
        daemon_socket: raw.path("paths.daemon_socket", "/run/supermachine/daemon.sock")?,
    })
}

fn allowed_annotations(raw: &mut Raw, file: &Path) -> Result<Vec<AnnotationKey>, ConfigError> {
    let Some(names) = raw.texts("annotations.allow")? else { return Ok(AnnotationKey::ALL.to_vec()) };
    let known = AnnotationKey::ALL.map(AnnotationKey::name);
    names
        .into_iter()
        .map(|name| {
            AnnotationKey::from_name(&name).ok_or_else(|| ConfigError::BadValue {
                origin: file.display().to_string(),
                key: "annotations.allow".to_owned(),
                remedy: hint(&name, &known),
                found: format!("a list with \"{name}\""),
            })
        })
        .collect()
}

/// Guest memory must be something the VMM can map.
pub(crate) fn check_memory(memory: Bytes, origin: &str) -> Result<(), ConfigError> {
    if (MIN_MEMORY..=MAX_MEMORY).contains(&memory) && memory.0.is_multiple_of(MEMORY_STEP) {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        origin: origin.to_owned(),
        key: "vm.memory".to_owned(),
        found: memory.to_string(),
        remedy: format!("write a multiple of 2M from {MIN_MEMORY} to {MAX_MEMORY}, for example \"256M\""),
    })
}

/// A writable layer must hold a file system and be a whole number of sectors.
fn check_upper(size: Bytes, origin: &str) -> Result<(), ConfigError> {
    if size >= Bytes::mebibytes(16) && size.0.is_multiple_of(4096) {
        return Ok(());
    }
    Err(ConfigError::BadValue {
        origin: origin.to_owned(),
        key: "upper.size".to_owned(),
        found: size.to_string(),
        remedy: "write a multiple of 4K of at least 16M, for example \"8G\"".to_owned(),
    })
}
