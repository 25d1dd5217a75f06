//! Pause: stops all processes of a container where they are, by the freezer of its cgroup in the guest.

use agent_proto::ContainerRequest;
use containerd_shim_protos::api::{Empty, PauseRequest};
use containerd_shim_protos::events::task::TaskPaused;
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service, describe};
use crate::error::ServiceError;
use crate::task::Phase;

impl Service {
    pub(super) async fn run_pause(self, request: PauseRequest) -> Result<Empty, ServiceError> {
        let container = self.container(&request.id)?;
        let _alone = container.freezer.write().await;
        let init = &container.init;
        let _turn = init.turn().await;
        init.phase().may_pause().map_err(|source| ServiceError::State {
            action: "pause",
            process: describe(&request.id, ""),
            source,
        })?;
        init.pass(Phase::Running, Phase::Pausing);
        let call = ContainerRequest { container_id: request.id.clone(), ..Default::default() };
        if let Err(source) = container.sandbox.agent().freeze_container(with_duration(QUICK_CALL), &call).await {
            init.pass(Phase::Pausing, Phase::Running);
            return Err(ServiceError::agent("pause the container", source));
        }
        init.pass(Phase::Pausing, Phase::Paused);
        self.shared.publisher.publish(TaskPaused { container_id: request.id, ..Default::default() });
        Ok(Empty::default())
    }
}
