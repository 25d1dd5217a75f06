//! What a container may use, what it does use, and whether it runs at all.

use agent_proto::{ContainerStats, OutOfMemory, ProcessExit, UpdateContainerRequest, WaitOutOfMemoryRequest};
use cgroup_limits::UpdateError;
use oci_spec::runtime::LinuxResources;

use super::Server;
use super::containers::Container;
use crate::guest::Guest;
use crate::reaper::Exit;
use crate::refusal::{Kind, Refusal};

impl<G: Guest> Server<G> {
    pub(super) async fn freeze(&self, id: &str) -> Result<(), Refusal> {
        let container = self.containers.container(id)?;
        if container.first.exit().is_some() || container.first.is_created().await {
            return Err(Refusal::new(Kind::FailedPrecondition, format!("container {id:?} isn't running")));
        }
        container.cgroup.freeze().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => {
                Refusal::new(Kind::DeadlineExceeded, "a process can't be stopped now: it waits in the kernel")
            }
            _ => Refusal::new(Kind::Internal, format!("freeze the container: {error}")),
        })
    }

    pub(super) fn thaw(&self, id: &str) -> Result<(), Refusal> {
        let thawed = self.containers.container(id)?.cgroup.thaw();
        thawed.map_err(|error| Refusal::new(Kind::Internal, format!("thaw the container: {error}")))
    }

    pub(super) fn update(&self, request: &UpdateContainerRequest) -> Result<(), Refusal> {
        let id = request.container_id.as_str();
        let container = self.containers.container(id)?;
        if container.first.exit().is_some() {
            return Err(Refusal::new(Kind::FailedPrecondition, format!("container {id:?} has exited")));
        }
        self.limit(&container, &request.resources)
    }

    /// Sets limits, given as JSON.
    pub(super) fn limit(&self, container: &Container, resources: &[u8]) -> Result<(), Refusal> {
        let resources: LinuxResources = serde_json::from_slice(resources)
            .map_err(|error| Refusal::new(Kind::InvalidArgument, format!("linux.resources: {error}")))?;
        cgroup_limits::update(container.cgroup.path(), &resources).map(drop).map_err(|error| match error {
            UpdateError::Limit(_) => Refusal::from_error(Kind::InvalidArgument, &error),
            UpdateError::InUse { .. } => Refusal::from_error(Kind::FailedPrecondition, &error),
        })
    }

    pub(super) fn stats(&self, id: &str) -> Result<ContainerStats, Refusal> {
        let machine = rustix::system::sysinfo();
        let memory = machine.totalram.saturating_mul(machine.mem_unit.into());
        let stats = self.containers.container(id)?.cgroup.stats(memory);
        stats.map_err(|error| Refusal::new(Kind::Internal, format!("read the container's figures: {error}")))
    }

    pub(super) async fn out_of_memory(&self, request: &WaitOutOfMemoryRequest) -> Result<OutOfMemory, Refusal> {
        let container = self.containers.container(&request.container_id)?;
        let oom_kills = tokio::select! {
            more = container.cgroup.more_oom_kills(request.known) => {
                more.map_err(|error| Refusal::new(Kind::Internal, format!("watch the container's memory: {error}")))?
            }
            exit = container.first.wait() => exit.map(|_| oom_kills(&container))?,
        };
        Ok(OutOfMemory { oom_kills, ..Default::default() })
    }

    /// Waits for the end of a process.
    pub(super) async fn exit_of(&self, container: &str, process: &str) -> Result<ProcessExit, Refusal> {
        let residence = self.containers.container(container)?;
        let exit = self.containers.process(container, process)?.wait().await?;
        Ok(ProcessExit { oom_kills: oom_kills(&residence), ..exited(exit) })
    }
}

/// None are known of a container that was deleted in this moment.
pub(super) fn oom_kills(container: &Container) -> u64 {
    container.cgroup.oom_kills().unwrap_or(0)
}

pub(super) fn exited(exit: Exit) -> ProcessExit {
    let since = exit.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let exited_at_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    ProcessExit { code: exit.code, exited_at_ns, ..Default::default() }
}
