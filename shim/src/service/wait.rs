//! Wait: returns when a process has exited.

use containerd_shim_protos::api::{WaitRequest, WaitResponse};

use super::{Service, describe, to_timestamp};
use crate::error::ServiceError;

impl Service {
    pub(super) async fn run_wait(&self, request: &WaitRequest) -> Result<WaitResponse, ServiceError> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        let exit = process.ended().await.map_err(|source| ServiceError::State {
            action: "wait for",
            process: describe(&request.id, &request.exec_id),
            source,
        })?;
        Ok(WaitResponse {
            exit_status: exit.status,
            exited_at: Some(to_timestamp(exit.at)).into(),
            ..Default::default()
        })
    }
}
