//! The Task service, versions 2 and 3: one RPC per file.

mod clock;
mod close_io;
mod connect;
mod create;
mod delete;
mod exec;
mod export;
mod kill;
mod pause;
mod pids;
mod resize_pty;
mod resume;
mod rpc;
mod shutdown;
mod start;
mod state;
mod stats;
mod tasks;
mod update;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::shim_async::create_task;
use supermachine::shim::create_shim;
use tokio::sync::Notify;
use ttrpc::asynchronous;

use crate::error::ServiceError;
use crate::events::Publisher;
use crate::sandbox::Launcher;
use crate::task::{Container, Process};
use tasks::Tasks;

/// The name that the generated code registers the service under.
const V3: &str = "containerd.task.v3.Task";
/// The same messages and methods under the name of containerd before 2.0, and of every client that was told version 2.
const V2: &str = "containerd.task.v2.Task";

/// How long the agent may take to answer a call that waits for nothing in the guest.
const QUICK_CALL: Duration = Duration::from_secs(10);
/// How long the agent may take to set up a container or execute a program, both of which read from disk.
const SLOW_CALL: Duration = Duration::from_secs(60);

/// How long it may take if it is brought files first, however many: that they come is watched by whoever sends them.
const IMPORT_CALL: Duration = Duration::from_secs(3600);

/// The shim's one service, shared by all connections.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: String,
    launcher: Box<dyn Launcher>,
    publisher: Publisher,
    tasks: Tasks,
    /// Shutdown was asked for while tasks existed.
    shutdown_wanted: AtomicBool,
    /// Told when the daemon is to end.
    ended: Arc<Notify>,
}

impl Service {
    /// `ended` is notified once the daemon may exit.
    pub(crate) fn new(namespace: &str, launcher: Box<dyn Launcher>, publisher: Publisher, ended: Arc<Notify>) -> Self {
        Self {
            shared: Arc::new(Shared {
                namespace: namespace.to_owned(),
                launcher,
                publisher,
                tasks: Tasks::default(),
                shutdown_wanted: AtomicBool::new(false),
                ended,
            }),
        }
    }

    /// The methods under both names, and those for the node daemon, for a ttrpc server.
    pub(crate) fn register(&self) -> HashMap<String, asynchronous::Service> {
        let methods = || create_task(Arc::new(self.clone()));
        let mut services = methods();
        services.extend(methods().remove(V3).map(|service| (V2.to_owned(), service)));
        services.extend(create_shim(Arc::new(self.clone())));
        services
    }

    fn container(&self, id: &str) -> Result<Arc<Container>, ServiceError> {
        self.shared.tasks.get(id).ok_or_else(|| ServiceError::NoTask { id: id.to_owned() })
    }

    fn process(&self, id: &str, exec_id: &str) -> Result<(Arc<Container>, Arc<Process>), ServiceError> {
        let container = self.container(id)?;
        let process = container.process(exec_id)?;
        Ok((container, process))
    }

    /// Ends the daemon if Shutdown was asked for and no task is left.
    fn end_if_idle(&self) {
        if self.shared.shutdown_wanted.load(Ordering::SeqCst) && self.shared.tasks.is_empty() {
            self.shared.ended.notify_one();
        }
    }
}

/// How a process is named in messages.
fn describe(id: &str, exec_id: &str) -> String {
    if exec_id.is_empty() { id.to_owned() } else { format!("{id}/{exec_id}") }
}

/// A time as protobuf has it.
pub(crate) fn to_timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
