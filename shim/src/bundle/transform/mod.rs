//! Adapts a specification to the guest: one transformer per file, each removing what is the host's.

mod confinement;
mod devices;
mod hooks;
mod namespaces;
pub(crate) mod resources;
mod volumes;

use agent_proto::Socket;
use oci_spec::runtime::Spec;
use supermachine::{HostDevice, Volume};

use super::{Bundle, BundleError};

pub(crate) use hooks::HostHooks;
pub(crate) use namespaces::{Neighbour, is_pid_namespace_own};
pub(crate) use volumes::Bound;

/// A specification split into the guest's part and the host's.
#[derive(Debug)]
pub(crate) struct GuestSpec {
    /// The specification for the agent, as JSON.
    pub(crate) json: Vec<u8>,
    /// What of the host's files the container is to see.
    pub(crate) bound: Bound,
    /// Hooks, which run on the host.
    pub(crate) hooks: HostHooks,
}

impl GuestSpec {
    /// The hooks alone.
    pub(crate) fn hooks_of(bundle: Bundle) -> Result<HostHooks, BundleError> {
        let mut spec: Spec = bundle.spec;
        hooks::take(&mut spec)
    }

    /// The volumes alone, those that are sockets among them.
    pub(crate) fn volumes_of(bundle: &Bundle, id: &str) -> Result<Vec<Volume>, BundleError> {
        Ok(volumes::bind(&mut bundle.spec.clone(), id, bundle.is_live, &[])?.volumes)
    }

    /// The block devices of the host that the container is given.
    pub(crate) fn devices_of(bundle: &Bundle) -> Vec<HostDevice> {
        devices::given(&bundle.spec)
    }

    /// Runs all transformers for container `id`. One that joins the VM of its group has a neighbour. `sockets` are those
    /// of its volumes that turned out to be some.
    pub(crate) fn new(
        bundle: Bundle,
        id: &str,
        neighbour: Option<Neighbour>,
        sockets: &[Socket],
    ) -> Result<Self, BundleError> {
        let mut spec: Spec = bundle.spec;
        let hooks = hooks::take(&mut spec)?;
        namespaces::localise(&mut spec, neighbour)?;
        confinement::remove(&mut spec);
        resources::localise(&mut spec);
        let bound = volumes::bind(&mut spec, id, bundle.is_live, sockets)?;
        let json = serde_json::to_vec(&spec).map_err(BundleError::Encode)?;
        Ok(Self { json, bound, hooks })
    }
}
