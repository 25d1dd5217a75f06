//! Processes killed for lack of memory: told when there are more of them, and before the exit that follows from it.

use std::sync::Arc;
use std::time::Duration;

use agent_proto::WaitOutOfMemoryRequest;
use containerd_shim_protos::events::task::TaskOOM;
use tracing::{debug, warn};
use ttrpc::context::Context;

use super::Container;
use crate::events::Publisher;

/// However many are killed, containerd is told of them at most this often, and of each exit's.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Tells of kills that no exit of ours follows, such as those of a shell's children. Ends with the container's init;
/// one that ends at once is never asked about.
pub(crate) async fn watch_memory(container: Arc<Container>, publisher: Publisher) {
    let watched = async {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let call = WaitOutOfMemoryRequest {
                container_id: container.identity.id.clone(),
                known: container.oom_kills(),
                ..Default::default()
            };
            match container.sandbox.agent().wait_out_of_memory(Context::default(), &call).await {
                Ok(answer) if answer.oom_kills > call.known => tell(&container, answer.oom_kills, &publisher).await,
                // The init has exited; with its exit comes the last count.
                Ok(_) => return,
                Err(error) => return debug!("the container's memory is no longer watched: {error}"),
            }
        }
    };
    tokio::select! {
        _ = container.init.ended() => {}
        () = watched => {}
    }
}

/// Publishes that processes were killed, unless as many were told of, or the init's exit was.
pub(super) async fn tell(container: &Container, oom_kills: u64, publisher: &Publisher) {
    if oom_kills <= container.oom_kills() {
        return;
    }
    let _turn = container.init.turn().await;
    if container.init.phase().exit().is_some() || !container.set_oom_kills(oom_kills) {
        return;
    }
    let id = &container.identity.id;
    warn!(id, oom_kills, "out of memory");
    publisher.publish(TaskOOM { container_id: id.clone(), ..Default::default() });
}
