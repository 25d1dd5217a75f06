//! Pids: the container's processes.

use std::time::Duration;

use agent_proto::ContainerRequest;
use containerd_shim_protos::api::{PidsRequest, PidsResponse, ProcessInfo};
use containerd_shim_protos::protobuf::Message as _;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim::oci::ProcessDetails;
use tracing::debug;
use ttrpc::context::with_duration;

use super::Service;
use crate::error::ServiceError;
use crate::task::Container;

/// A restarted containerd gives all its questions to a shim together 5 seconds; a guest that hangs must not use them up.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// No process of the host has this id or a higher one (`PID_MAX_LIMIT` in Linux). The guest's processes are told above
/// it, since clients look the ids up on the host (`nerdctl top`), where the guest's own would be those of strangers.
const ABOVE_HOST: u32 = 1 << 22;

impl Service {
    pub(super) async fn run_pids(&self, request: &PidsRequest) -> Result<PidsResponse, ServiceError> {
        let container = self.container(&request.id)?;
        Ok(PidsResponse { processes: list(&container).await, ..Default::default() })
    }
}

/// The processes as the guest lists them, init under the pid that containerd knows it by, the others above the host's.
/// When the guest doesn't answer, init alone.
async fn list(container: &Container) -> Vec<ProcessInfo> {
    let init = ProcessInfo { pid: container.pid(), ..Default::default() };
    if container.init.phase().exit().is_some() {
        return vec![init];
    }
    let call = ContainerRequest { container_id: container.identity.id.clone(), ..Default::default() };
    let answer = match container.sandbox.agent().list_processes(with_duration(ANSWER_WITHIN), &call).await {
        Ok(answer) => answer,
        Err(error) => {
            debug!("the agent did not list processes: {error}");
            return vec![init];
        }
    };
    let others = answer.processes.into_iter().filter(|entry| entry.pid != container.init.guest_pid());
    std::iter::once(init)
        .chain(others.map(|entry| ProcessInfo {
            pid: ABOVE_HOST.saturating_add(entry.pid),
            info: details(&entry.exec_id).into(),
            ..Default::default()
        }))
        .collect()
}

/// How runc's shim marks the process of an exec.
fn details(exec_id: &str) -> Option<Any> {
    if exec_id.is_empty() {
        return None;
    }
    let details = ProcessDetails { exec_id: exec_id.to_owned(), ..Default::default() };
    let value = details.write_to_bytes().ok()?;
    Some(Any { type_url: "containerd.runc.v1.ProcessDetails".to_owned(), value, ..Default::default() })
}
