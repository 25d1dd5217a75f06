//! Resume: lets a paused container go on.

use agent_proto::ContainerRequest;
use containerd_shim_protos::api::{Empty, ResumeRequest};
use containerd_shim_protos::events::task::TaskResumed;
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service, describe};
use crate::error::ServiceError;
use crate::task::Phase;

impl Service {
    pub(super) async fn run_resume(self, request: ResumeRequest) -> Result<Empty, ServiceError> {
        let container = self.container(&request.id)?;
        let init = &container.init;
        let _turn = init.turn().await;
        init.phase().may_resume().map_err(|source| ServiceError::State {
            action: "resume",
            process: describe(&request.id, ""),
            source,
        })?;
        let call = ContainerRequest { container_id: request.id.clone(), ..Default::default() };
        let thawed = container.sandbox.agent().thaw_container(with_duration(QUICK_CALL), &call).await;
        thawed.map_err(|source| ServiceError::agent("resume the container", source))?;
        init.pass(Phase::Paused, Phase::Running);
        self.shared.publisher.publish(TaskResumed { container_id: request.id, ..Default::default() });
        Ok(Empty::default())
    }
}
