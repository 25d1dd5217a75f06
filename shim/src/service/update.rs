//! Update: other limits for a container, in the guest and, where they concern other containers, on the host.

use agent_proto::UpdateContainerRequest;
use containerd_shim_protos::api::{Empty, UpdateTaskRequest};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use oci_spec::runtime::LinuxResources;
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service, describe};
use crate::bundle::resources;
use crate::error::ServiceError;
use crate::host_cgroup;

/// What containerd names the object by; the host part of such a name differs between its versions.
const RESOURCES: &str = "opencontainers/runtime-spec/1/LinuxResources";

impl Service {
    pub(super) async fn run_update(self, request: UpdateTaskRequest) -> Result<Empty, ServiceError> {
        let container = self.container(&request.id)?;
        // One update at a time, and none while the container's state changes.
        let _turn = container.init.turn().await;
        container.init.phase().may_update().map_err(|source| ServiceError::State {
            action: "update",
            process: describe(&request.id, ""),
            source,
        })?;
        let resources = parse(&request.resources.into_option().unwrap_or_default())?;
        let call = UpdateContainerRequest {
            container_id: request.id,
            resources: serde_json::to_vec(&resources::of_guest(&resources)).map_err(ServiceError::Resources)?,
            ..Default::default()
        };
        let of_host = if container.sandbox.joined().is_some() {
            // The VM is limited for the container that it came with.
            LinuxResources::default()
        } else {
            resources::of_host(&resources)
        };
        let before = host_cgroup::limit(container.identity.cgroup.as_ref(), &of_host)?;
        if let Err(source) = container.sandbox.agent().update_container(with_duration(QUICK_CALL), &call).await {
            before.restore();
            return Err(ServiceError::agent("update the container", source));
        }
        Ok(Empty::default())
    }
}

fn parse(any: &Any) -> Result<LinuxResources, ServiceError> {
    if !any.type_url.ends_with(RESOURCES) {
        return Err(ServiceError::UnknownType { type_url: any.type_url.clone(), expected: RESOURCES });
    }
    serde_json::from_slice(&any.value).map_err(ServiceError::Resources)
}
