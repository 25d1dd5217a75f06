//! Which devices a container may use, whatever nodes it finds or makes: `linux.resources.devices` of a spec, as a BPF
//! program on its cgroup.

mod assemble;
mod rules;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::Linux;

use crate::container::{SetupError, Step as _};
use crate::sys::{BpfInstruction, filter_devices};

/// A compiled filter.
pub(crate) struct DeviceFilter {
    program: Vec<BpfInstruction>,
}

impl DeviceFilter {
    /// Compiles the rules of a spec.
    pub(crate) fn compile(linux: &Linux) -> Result<Self, SetupError> {
        let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref());
        let nodes = linux.devices().as_deref().unwrap_or_default();
        let table = rules::table(rules.unwrap_or_default(), nodes)?;
        Ok(Self { program: assemble::program(&table) })
    }

    /// Puts a cgroup and all below it under the filter, for as long as it is there.
    pub(crate) fn attach(&self, cgroup: &Path) -> Result<(), SetupError> {
        let directory = File::open(cgroup).on("open cgroup", cgroup)?;
        filter_devices(directory.as_fd(), &self.program).on("filter devices of", cgroup)
    }
}
