//! The end of a process: noticed, noted, published.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_proto::ProcessRequest;
use containerd_shim_protos::events::task::TaskExit;
use futures::future::join_all;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::{Container, Exit, Process, memory};
use crate::events::Publisher;
use crate::service::to_timestamp;

/// What a process is reported to have ended with when its VM went away under it: as if killed.
const LOST: u32 = 128 + 9;
/// How long a VM whose agent hung up may take to end by itself.
pub(crate) const HANG_UP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long init's exit waits for those of the execs that die with it.
const EXECS_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until the process ends, or its VM does, and makes it known. Never hangs on a VM that is gone.
pub(crate) async fn watch(container: Arc<Container>, process: Arc<Process>, publisher: Publisher) {
    let (status, oom_kills) = wait(&container, &process).await;
    let exit = Exit { status, at: SystemTime::now() };
    memory::tell(&container, oom_kills, &publisher).await;
    if !process.is_exec() {
        // Nothing outlives the init; its exit is the container's last.
        let execs = container.running_execs();
        if timeout(EXECS_TIMEOUT, join_all(execs.iter().map(|exec| exec.ended()))).await.is_err() {
            warn!("execs are still running {EXECS_TIMEOUT:?} after init exited");
        }
    }
    process.io.settle().await;
    let _turn = process.turn().await;
    // Who is told of an init's exit finds its process gone, and what it wrote on its disk.
    if !process.is_exec() && container.is_delivered() {
        container.retire().await;
    }
    note(&container, &process, exit, &publisher);
}

/// Notes an exit and publishes it, once. The caller has the process's turn.
pub(crate) fn note(container: &Container, process: &Process, exit: Exit, publisher: &Publisher) {
    if !process.set_exited(exit) {
        return;
    }
    let id = &container.identity.id;
    info!(id, exec_id = process.exec_id(), status = exit.status, "process exited");
    publisher.publish(TaskExit {
        container_id: id.clone(),
        id: process.exec.as_ref().map_or(id, |exec| &exec.id).clone(),
        pid: container.pid(),
        exit_status: exit.status,
        exited_at: Some(to_timestamp(exit.at)).into(),
        ..Default::default()
    });
}

/// How it ended, and how many processes of its container were killed for lack of memory until then.
async fn wait(container: &Container, process: &Process) -> (u32, u64) {
    let request = ProcessRequest {
        container_id: container.identity.id.clone(),
        exec_id: process.exec_id().to_owned(),
        ..Default::default()
    };
    tokio::select! {
        biased;
        answer = container.sandbox.agent().wait_process(ttrpc::context::Context::default(), &request) => match answer {
            // The guest's word: at most what a wait status can say.
            Ok(exit) => (exit.code & 0xff, exit.oom_kills),
            // It never ran, or Delete was quicker; whoever did that noted the exit.
            Err(ttrpc::Error::RpcStatus(status)) => {
                warn!("the agent doesn't know how the process ended: {}", status.message);
                (255, 0)
            }
            Err(_) => (lost(container).await, 0),
        },
        reason = container.sandbox.exited() => {
            error!("the VM is gone: {reason}");
            (LOST, 0)
        }
    }
}

/// The agent hung up: the VM is going down, or is brought down.
async fn lost(container: &Container) -> u32 {
    match timeout(HANG_UP_TIMEOUT, container.sandbox.exited()).await {
        Ok(reason) => error!("the VM is gone: {reason}"),
        Err(_) => {
            error!("the VM's agent hung up: ending the VM");
            container.sandbox.shutdown().await;
        }
    }
    LOST
}
