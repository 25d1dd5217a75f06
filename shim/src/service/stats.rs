//! Stats: what a container uses, and until Delete what it used.

use std::time::Duration;

use agent_proto::ContainerRequest;
use containerd_shim_protos::api::{StatsRequest, StatsResponse};
use ttrpc::context::with_duration;

use super::Service;
use crate::error::ServiceError;
use crate::metrics;

/// containerd collects from one container after the other, and waits as long for each.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl Service {
    pub(super) async fn run_stats(&self, request: &StatsRequest) -> Result<StatsResponse, ServiceError> {
        let container = self.container(&request.id)?;
        let call = ContainerRequest { container_id: request.id.clone(), ..Default::default() };
        let stats = container.sandbox.agent().read_stats(with_duration(ANSWER_WITHIN), &call).await;
        let stats = stats.map_err(|source| ServiceError::agent("read the container's figures", source))?;
        let metrics = metrics::encode(stats).map_err(ServiceError::Encode)?;
        Ok(StatsResponse { stats: Some(metrics).into(), ..Default::default() })
    }
}
