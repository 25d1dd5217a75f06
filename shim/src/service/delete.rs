//! Delete: of a container with its VM, or of an exec.

use std::sync::Arc;
use std::time::SystemTime;

use agent_proto::ProcessRequest;
use containerd_shim_protos::api::{DeleteRequest, DeleteResponse};
use containerd_shim_protos::events::task::TaskDelete;
use tracing::{debug, warn};
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service, describe, to_timestamp};
use crate::error::ServiceError;
use crate::hooks::{self, Status};
use crate::task::{Container, Exit, Phase, Process, note};

impl Service {
    pub(super) async fn run_delete(self, request: DeleteRequest) -> Result<DeleteResponse, ServiceError> {
        let (container, process) = self.process(&request.id, &request.exec_id)?;
        let _turn = process.turn().await;
        process.phase().may_delete().map_err(|source| ServiceError::State {
            action: "delete",
            process: describe(&request.id, &request.exec_id),
            source,
        })?;
        let exit = if process.is_exec() {
            delete_exec(&container, &process).await
        } else {
            self.delete_init(&container, &process).await
        };
        Ok(DeleteResponse {
            pid: container.pid(),
            exit_status: exit.status,
            exited_at: Some(to_timestamp(exit.at)).into(),
            ..Default::default()
        })
    }

    async fn delete_init(&self, container: &Arc<Container>, process: &Process) -> Exit {
        let id = &container.identity.id;
        if process.phase() == Phase::Created {
            // It ends with its place in the VM.
            note(container, process, killed(), &self.shared.publisher);
            process.io.abort().await;
            let sandbox = Arc::clone(&container.sandbox);
            self.shared.tasks.end(async move { sandbox.leave().await });
        } else {
            process.io.drain().await;
            container.retire().await;
        }
        let exit = process.set_deleted(killed());
        if let Err(error) = hooks::run(&container.hooks.poststop, &container.identity.state(Status::Stopped, 0)).await {
            warn!("poststop: {}", supermachine::chain(&error));
        }
        if !container.hooks.poststop.is_empty()
            && let Err(error) = std::fs::write(container.identity.bundle.join(hooks::POSTSTOP_RAN), "")
        {
            warn!("poststop hooks may run again: {error}");
        }
        self.shared.publisher.publish(TaskDelete {
            container_id: id.clone(),
            pid: container.pid(),
            exit_status: exit.status,
            exited_at: Some(to_timestamp(exit.at)).into(),
            id: id.clone(),
            ..Default::default()
        });
        self.shared.tasks.remove(id);
        self.end_if_idle();
        exit
    }
}

async fn delete_exec(container: &Container, process: &Process) -> Exit {
    process.io.drain().await;
    if process.guest_pid() != 0 {
        let call = ProcessRequest {
            container_id: container.identity.id.clone(),
            exec_id: process.exec_id().to_owned(),
            ..Default::default()
        };
        // What the agent can't forget goes with the VM.
        if let Err(error) = container.sandbox.agent().delete_process(with_duration(QUICK_CALL), &call).await {
            debug!("the agent did not forget the process: {error}");
        }
    }
    container.remove_exec(process.exec_id());
    process.set_deleted(Exit { status: 0, at: SystemTime::now() })
}

/// The exit of an init that was deleted before it was started.
fn killed() -> Exit {
    Exit { status: 128 + 9, at: SystemTime::now() }
}
