//! A spec that was checked: everything that can be refused before a process exists is refused here.

use std::path::PathBuf;

use cgroup_limits::{Limit, limits};
use oci_spec::runtime::{Linux, Process, Spec};

use super::capabilities::CapabilityPlan;
use super::error::SetupError;
use super::namespaces::Namespaces;
use super::settings;
use crate::seccomp::Filter;

/// A container to be made.
pub(crate) struct ContainerPlan {
    pub(crate) spec: Spec,
    pub(crate) namespaces: Namespaces,
    pub(crate) limits: Vec<Limit>,
    pub(crate) process: ProcessPlan,
}

/// A process to be made.
#[derive(Clone)]
pub(crate) struct ProcessPlan {
    pub(crate) process: Process,
    pub(crate) capabilities: CapabilityPlan,
    pub(crate) filter: Option<Filter>,
}

impl ContainerPlan {
    /// Reads and checks a spec. Names of host security modules (AppArmor profiles, SELinux labels) mean nothing in the
    /// guest, whose kernel has neither, and are passed over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, SetupError> {
        let spec: Spec = serde_json::from_slice(json).map_err(|error| SetupError::spec("spec", error))?;
        let Some(linux) = spec.linux() else {
            return Err(SetupError::spec("linux", "is missing"));
        };
        let Some(process) = spec.process() else {
            return Err(SetupError::spec("process", "is missing"));
        };
        refuse_unsupported(linux)?;
        let namespaces = Namespaces::from_spec(linux.namespaces().as_deref().unwrap_or_default())?;
        require_namespaces(&spec, linux, &namespaces)?;
        let filter = linux.seccomp().as_ref().map(Filter::compile).transpose()?;
        let process = ProcessPlan::new(process.clone(), filter)?;
        let limits = linux.resources().as_ref().map(limits).transpose()?.unwrap_or_default();
        Ok(Self { namespaces, limits, process, spec })
    }

    /// The `linux` object.
    pub(crate) fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }
}

impl ProcessPlan {
    fn new(process: Process, filter: Option<Filter>) -> Result<Self, SetupError> {
        settings::validate(&process)?;
        let capabilities = CapabilityPlan::from_spec(process.capabilities().as_ref());
        Ok(Self { process, capabilities, filter })
    }

    /// Reads and checks the `process` object of a further process in the container whose first process is `first`: it
    /// inherits the filter and, if it names none, the capabilities.
    pub(crate) fn parse_further(json: &[u8], first: &Self) -> Result<Self, SetupError> {
        let process: Process = serde_json::from_slice(json).map_err(|error| SetupError::spec("process", error))?;
        let named = process.capabilities().is_some();
        let mut plan = Self::new(process, first.filter.clone())?;
        if !named {
            plan.capabilities = first.capabilities;
        }
        Ok(plan)
    }
}

fn refuse_unsupported(linux: &Linux) -> Result<(), SetupError> {
    for (name, present) in [
        ("intelRdt", linux.intel_rdt().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        ("personality", linux.personality().is_some()),
        ("timeOffsets", linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())),
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
    let named = |name: &Option<String>| name.as_deref().is_some_and(|name| !name.is_empty());
    if !own(libc::CLONE_NEWUTS) && named(spec.domainname()) {
        return Err(SetupError::spec("domainname", "needs a uts namespace of the container's own"));
    }
    if namespaces.creates(libc::CLONE_NEWUSER) {
        for (name, mappings) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
            if mappings.as_deref().unwrap_or_default().is_empty() {
                return Err(SetupError::spec(format!("linux.{name}"), "a new user namespace needs mappings"));
            }
        }
    }
    for key in linux.sysctl().iter().flatten().map(|(key, _)| key) {
        let path = sysctl_path(key)?;
        let allowed = if path.starts_with("net") {
            own(libc::CLONE_NEWNET)
        } else if path.starts_with("fs/mqueue") || path.starts_with("kernel/sem") || ipc_sysctl(&path) {
            own(libc::CLONE_NEWIPC)
        } else {
            path.starts_with("kernel/domainname") && own(libc::CLONE_NEWUTS)
        };
        // A network namespace can be the VM's own: one VM serves one pod.
        if !allowed && !path.starts_with("net") {
            return Err(SetupError::spec(
                format!("linux.sysctl[{key:?}]"),
                "isn't kept apart by the container's namespaces",
            ));
        }
    }
    Ok(())
}

fn ipc_sysctl(path: &std::path::Path) -> bool {
    ["msgmax", "msgmnb", "msgmni", "shmall", "shmmax", "shmmni", "shm_rmid_forced"]
        .iter()
        .any(|name| path == std::path::Path::new("kernel").join(name))
}

/// The path of a kernel parameter below `/proc/sys`. In the dotted form a slash stands for a dot in a name.
pub(crate) fn sysctl_path(key: &str) -> Result<PathBuf, SetupError> {
    let dotted = key.find(['.', '/']).is_some_and(|at| key.as_bytes().get(at) == Some(&b'.'));
    let path: String = if dotted {
        key.chars()
            .map(|character| match character {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    } else {
        key.to_owned()
    };
    let plain = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if plain {
        Ok(PathBuf::from(path))
    } else {
        Err(SetupError::spec(format!("linux.sysctl[{key:?}]"), "is no parameter name"))
    }
}
