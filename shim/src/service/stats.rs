//! Stats: what a container uses, and until Delete what it used.

use containerd_shim_protos::api::{StatsRequest, StatsResponse};

use super::Service;
use crate::error::ServiceError;
use crate::metrics;

impl Service {
    pub(super) async fn run_stats(&self, request: &StatsRequest) -> Result<StatsResponse, ServiceError> {
        let container = self.container(&request.id)?;
        let stats = container.stats().await;
        let stats = stats.map_err(|source| ServiceError::agent("read the container's figures", source))?;
        let metrics = metrics::encode(stats).map_err(ServiceError::Encode)?;
        Ok(StatsResponse { stats: Some(metrics).into(), ..Default::default() })
    }
}
