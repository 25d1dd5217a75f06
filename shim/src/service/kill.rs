//! Kill: a signal to a process, or to all of a container.

use std::time::Duration;

use agent_proto::SignalProcessRequest;
use containerd_shim_protos::api::{Empty, KillRequest};
use nix::sys::signal::Signal;
use tokio::time::timeout;
use tracing::warn;
use ttrpc::Code;
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service, describe};
use crate::error::ServiceError;
use crate::task::StateError;

/// How long a guest may take over killing a container; then its VM is ended, which comes to the same.
const LETHAL_CALL: Duration = Duration::from_secs(2);

impl Service {
    pub(super) async fn run_kill(self, request: KillRequest) -> Result<Empty, ServiceError> {
        let (container, process) = self.process(&request.id, &request.exec_id)?;
        let name = || describe(&request.id, &request.exec_id);
        match process.phase().may_signal(process.is_exec()) {
            Ok(()) => {}
            Err(StateError::Exited | StateError::Deleted) => return Err(ServiceError::Finished { process: name() }),
            Err(source) => return Err(ServiceError::State { action: "kill", process: name(), source }),
        }
        let call = SignalProcessRequest {
            container_id: request.id.clone(),
            exec_id: request.exec_id.clone(),
            signal: request.signal,
            all: request.all,
            ..Default::default()
        };
        let is_lethal = request.signal == Signal::SIGKILL as u32 && !process.is_exec();
        let limit = if is_lethal { LETHAL_CALL } else { QUICK_CALL };
        match container.sandbox.agent().signal_process(with_duration(limit), &call).await {
            Ok(_) => Ok(Empty::default()),
            Err(ttrpc::Error::RpcStatus(status)) if status.code == Code::NOT_FOUND.into() => {
                Err(ServiceError::Finished { process: name() })
            }
            Err(source @ ttrpc::Error::RpcStatus(_)) => Err(ServiceError::agent("signal the process", source)),
            Err(source) if is_lethal => {
                warn!("the VM does not answer ({source}): ending it");
                container.sandbox.shutdown().await;
                Ok(Empty::default())
            }
            // The VM of a process that has just ended is on its way out.
            Err(source) => match timeout(QUICK_CALL, process.ended()).await {
                Ok(_) => Err(ServiceError::Finished { process: name() }),
                Err(_elapsed) => Err(ServiceError::agent("signal the process", source)),
            },
        }
    }
}
