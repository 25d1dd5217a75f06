//! Exec: registers a further process.

use containerd_shim::io::Stdio;
use containerd_shim_protos::api::{Empty, ExecProcessRequest};
use containerd_shim_protos::events::task::TaskExecAdded;

use super::{Service, describe};
use crate::error::ServiceError;
use crate::task::{ExecSpec, Process};

impl Service {
    pub(super) fn run_exec(&self, request: ExecProcessRequest) -> Result<Empty, ServiceError> {
        let container = self.container(&request.id)?;
        let refused = |source| ServiceError::State { action: "exec in", process: describe(&request.id, ""), source };
        container.init.phase().may_exec().map_err(refused)?;
        if request.exec_id.is_empty() {
            return Err(ServiceError::MissingField { field: "exec_id" });
        }
        let process = request.spec.into_option().ok_or(ServiceError::MissingField { field: "spec" })?.value;
        let stdio = Stdio::new(&request.stdin, &request.stdout, &request.stderr, request.terminal);
        let exec = ExecSpec { id: request.exec_id.clone(), process };
        container.add_exec(&request.exec_id, Process::new(Some(exec), stdio))?;
        self.shared.publisher.publish(TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..Default::default()
        });
        Ok(Empty::default())
    }
}
