//! Stats: what a container uses, and until Delete what it used.

use std::time::Duration;

use agent_proto::{ContainerRequest, ContainerStats};
use containerd_shim_protos::api::{StatsRequest, StatsResponse};
use ttrpc::context::with_duration;

use super::Service;
use crate::error::ServiceError;
use crate::metrics;
use crate::task::Container;

/// containerd collects from one container after the other, and waits as long for each.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl Service {
    pub(super) async fn run_stats(&self, request: &StatsRequest) -> Result<StatsResponse, ServiceError> {
        let container = self.container(&request.id)?;
        let stats = match container.last_stats() {
            Some(stats) => stats,
            None => match read(&container).await {
                Ok(stats) => stats,
                // Its VM may have ended meanwhile.
                Err(error) => container.last_stats().ok_or(error)?,
            },
        };
        let metrics = metrics::encode(stats).map_err(ServiceError::Encode)?;
        Ok(StatsResponse { stats: Some(metrics).into(), ..Default::default() })
    }
}

async fn read(container: &Container) -> Result<ContainerStats, ServiceError> {
    let call = ContainerRequest { container_id: container.identity.id.clone(), ..Default::default() };
    let stats = container.sandbox.agent().read_stats(with_duration(ANSWER_WITHIN), &call).await;
    stats.map_err(|source| ServiceError::agent("read the container's figures", source))
}
