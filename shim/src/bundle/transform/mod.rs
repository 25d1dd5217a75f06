//! Adapts a specification to the guest: one transformer per file, each removing what is the host's.

mod bind_mounts;
mod confinement;
mod hooks;
mod namespaces;
pub(crate) mod resources;

use agent_proto::File;
use oci_spec::runtime::Spec;

use super::{Bundle, BundleError};

pub(crate) use hooks::HostHooks;
pub(crate) use namespaces::{Neighbour, is_pid_namespace_own};

/// A specification split into the guest's part and the host's.
#[derive(Debug)]
pub(crate) struct GuestSpec {
    /// The specification for the agent, as JSON.
    pub(crate) json: Vec<u8>,
    /// Host files that the container is to see.
    pub(crate) files: Vec<File>,
    /// Hooks, which run on the host.
    pub(crate) hooks: HostHooks,
}

impl GuestSpec {
    /// The hooks alone.
    pub(crate) fn hooks_of(bundle: Bundle) -> Result<HostHooks, BundleError> {
        let mut spec: Spec = bundle.spec;
        hooks::take(&mut spec)
    }

    /// Runs all transformers. A container that joins the VM of its group has a neighbour.
    pub(crate) fn new(bundle: Bundle, neighbour: Option<Neighbour>) -> Result<Self, BundleError> {
        let mut spec: Spec = bundle.spec;
        let hooks = hooks::take(&mut spec)?;
        namespaces::localise(&mut spec, neighbour)?;
        confinement::remove(&mut spec);
        resources::localise(&mut spec);
        let files = bind_mounts::carry(&mut spec)?;
        let json = serde_json::to_vec(&spec).map_err(BundleError::Encode)?;
        Ok(Self { json, files, hooks })
    }
}
