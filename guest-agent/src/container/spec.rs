//! A spec that was checked: everything that can be refused before a process exists is refused here.

use cgroup_limits::{Limit, limits};
use nix::sys::personality::Persona;
use oci_spec::runtime::{Linux, LinuxPersonalityDomain, Process, Spec};
use serde::de::DeserializeOwned;

use super::capabilities::CapabilityPlan;
use super::error::SetupError;
use super::host_devices::{HostDevice, renumber};
use super::namespaces::Namespaces;
use super::scheduling::SchedulingPlan;
use super::sysctl::{self, Keeper};
use super::{mounts, rootfs, settings};
use crate::device_filter::DeviceFilter;
use crate::seccomp::Filter;

/// A container to be made.
pub(crate) struct ContainerPlan {
    pub(crate) spec: Spec,
    pub(crate) namespaces: Namespaces,
    pub(crate) limits: Vec<Limit>,
    pub(crate) devices: DeviceFilter,
    pub(crate) process: ProcessPlan,
}

/// A process to be made.
#[derive(Clone)]
pub(crate) struct ProcessPlan {
    pub(crate) process: Process,
    pub(crate) umask: u32,
    pub(crate) oom_score: i32,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) scheduling: SchedulingPlan,
    pub(crate) personality: Option<Persona>,
    pub(crate) filter: Option<Filter>,
}

/// The umask of a process whose spec names none.
const DEFAULT_UMASK: u32 = 0o022;

/// `PER_LINUX32` of `linux/personality.h`.
const LINUX_32: i32 = 8;

impl ContainerPlan {
    /// Reads and checks a spec. Names of host security modules (AppArmor profiles, SELinux labels) mean nothing in the
    /// guest, whose kernel has neither, and are passed over. `devices` are the host's that it has.
    pub(crate) fn parse(json: &[u8], devices: &[HostDevice]) -> Result<Self, SetupError> {
        let mut spec: Spec = read(json, "")?;
        renumber(&mut spec, devices);
        let Some(linux) = spec.linux() else {
            return Err(SetupError::spec("linux", "is missing"));
        };
        let Some(process) = spec.process() else {
            return Err(SetupError::spec("process", "is missing"));
        };
        if spec.root().is_none() {
            return Err(SetupError::spec("root", "is missing"));
        }
        refuse_unsupported(linux)?;
        mounts::validate(spec.mounts().as_deref().unwrap_or_default())?;
        rootfs::validate(&spec)?;
        let namespaces = Namespaces::from_spec(linux)?;
        require_namespaces(&spec, linux, &namespaces)?;
        let limits = linux.resources().as_ref().map(limits).transpose()?.unwrap_or_default();
        let devices = DeviceFilter::compile(linux)?;
        let process = ProcessPlan::of_first(process, linux)?;
        Ok(Self { namespaces, limits, devices, process, spec })
    }

    /// The `linux` object.
    pub(crate) fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }
}

impl ProcessPlan {
    fn of_first(process: &Process, linux: &Linux) -> Result<Self, SetupError> {
        settings::validate(process)?;
        let personality = linux.personality().as_ref().map(|personality| match personality.domain() {
            LinuxPersonalityDomain::PerLinux => Persona::empty(),
            LinuxPersonalityDomain::PerLinux32 => Persona::from_bits_retain(LINUX_32),
        });
        Ok(Self {
            process: process.clone(),
            umask: process.user().umask().unwrap_or(DEFAULT_UMASK),
            oom_score: process.oom_score_adj().unwrap_or(0),
            capabilities: CapabilityPlan::from_spec(process.capabilities().as_ref()),
            scheduling: SchedulingPlan::from_spec(process)?,
            personality,
            filter: linux.seccomp().as_ref().map(Filter::compile).transpose()?,
        })
    }

    /// Reads and checks the `process` object of a further process in the container whose first process is `first`. The
    /// umask and the OOM score are the container's, whatever the object says (runc is followed in that); what it
    /// doesn't name is like the first process's.
    pub(crate) fn parse_further(json: &[u8], first: &Self) -> Result<Self, SetupError> {
        let process: Process = read(json, "process.")?;
        settings::validate(&process)?;
        let named = process.capabilities().as_ref();
        Ok(Self {
            capabilities: named.map_or(first.capabilities, |named| CapabilityPlan::from_spec(Some(named))),
            scheduling: SchedulingPlan::from_spec(&process)?.or(&first.scheduling),
            process,
            ..first.clone()
        })
    }
}

/// Reads an object of a spec; `place` is where in the spec it is.
fn read<T: DeserializeOwned>(json: &[u8], place: &str) -> Result<T, SetupError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { place.trim_end_matches('.').to_owned() } else { format!("{place}{path}") };
        SetupError::spec(if field.is_empty() { "spec" } else { &field }, error.inner())
    })
}

fn refuse_unsupported(linux: &Linux) -> Result<(), SetupError> {
    for (name, present) in [
        ("intelRdt", linux.intel_rdt().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        ("netDevices", linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty())),
    ] {
        if present {
            return Err(SetupError::spec(format!("linux.{name}"), "isn't supported; leave it out"));
        }
    }
    Ok(())
}

/// Settings that would change the guest itself if the container shared its namespaces.
fn require_namespaces(spec: &Spec, linux: &Linux, namespaces: &Namespaces) -> Result<(), SetupError> {
    if !namespaces.creates(libc::CLONE_NEWNS) {
        return Err(SetupError::spec("linux.namespaces", "a new mount namespace is required"));
    }
    let own = |flag: i32| namespaces.separate() & flag as u64 != 0;
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if !own(libc::CLONE_NEWUTS) && name.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err(SetupError::spec(field, "needs a uts namespace of the container's own"));
        }
    }
    for key in linux.sysctl().iter().flatten().map(|(key, _)| key) {
        let allowed = match sysctl::keeper(key)? {
            Keeper::Ipc => own(libc::CLONE_NEWIPC),
            Keeper::Uts => own(libc::CLONE_NEWUTS),
            // A network namespace can be the VM's own: one VM serves one pod.
            Keeper::Network => true,
            Keeper::Nobody => false,
        };
        if !allowed {
            let reason = "isn't kept apart by the container's namespaces";
            return Err(SetupError::spec(format!("linux.sysctl[{key:?}]"), reason));
        }
    }
    Ok(())
}
