//! State: answered from what the shim knows, without the guest.

use containerd_shim_protos::api::{StateRequest, StateResponse, Status};

use super::{Service, to_timestamp};
use crate::error::ServiceError;
use crate::task::Phase;

impl Service {
    pub(super) fn run_state(&self, request: &StateRequest) -> Result<StateResponse, ServiceError> {
        let (container, process) = self.process(&request.id, &request.exec_id)?;
        let phase = process.phase();
        let status = match (container.init.phase(), phase) {
            // All of a container's processes are.
            (Phase::Pausing, _) => Status::PAUSING,
            (Phase::Paused, _) => Status::PAUSED,
            (_, Phase::Created) => Status::CREATED,
            (_, Phase::Running | Phase::Pausing | Phase::Paused) => Status::RUNNING,
            (_, Phase::Stopped(_) | Phase::Deleted(_)) => Status::STOPPED,
        };
        let registered_only = process.is_exec() && phase == Phase::Created;
        let exit = phase.exit();
        Ok(StateResponse {
            id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            bundle: container.identity.bundle.display().to_string(),
            pid: if registered_only { 0 } else { container.pid() },
            status: status.into(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(|exit| to_timestamp(exit.at)).into(),
            ..Default::default()
        })
    }
}
