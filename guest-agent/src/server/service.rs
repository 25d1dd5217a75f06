//! The RPCs of `agent.proto`.

use std::sync::atomic::Ordering;

use agent_proto::process_list::Entry;
use agent_proto::{
    AdoptContainerRequest, Agent, AwaitReadyRequest, ConfigureNetworkRequest, ContainerRequest, ContainerStats,
    CreateContainerRequest, CreateProcessRequest, Empty, ExportUpperRequest, ExportUpperResponse, NoticeChangesRequest,
    OutOfMemory, PrepareImageRequest, ProcessCreated, ProcessExit, ProcessList, ProcessRequest, ReleaseUpperRequest,
    ReleaseVolumesRequest, RemoveInterfaceRequest, ResizeTerminalRequest, ResumeRequest, ResumeResponse,
    SetClockRequest, SignalProcessRequest, UpdateContainerRequest, WaitOutOfMemoryRequest,
};
use async_trait::async_trait;
use rustix::thread::ClockId;
use ttrpc::r#async::TtrpcContext;

use super::Server;
use super::resources::exited;
use crate::container::TerminalSize;
use crate::guest::Guest;
use crate::reaper::Exit;
use crate::refusal::{Kind, Refusal};

impl<G: Guest> Server<G> {
    /// Refuses while the gate is closed.
    fn require_resumed(&self) -> Result<(), Refusal> {
        if self.resumed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Refusal::new(Kind::FailedPrecondition, "this machine has not been resumed: call Resume first"))
    }

    /// Refuses when the gate is open.
    fn require_unresumed(&self, what: &str) -> Result<(), Refusal> {
        if self.resumed.load(Ordering::Acquire) {
            return Err(Refusal::new(Kind::FailedPrecondition, format!("{what} is refused: this machine was resumed")));
        }
        Ok(())
    }

    fn list(&self, container: &str) -> Result<ProcessList, Refusal> {
        self.require_resumed()?;
        let processes = self.containers.container(container)?.cgroup.processes();
        let processes = processes.map_err(|error| Refusal::new(Kind::Internal, format!("list processes: {error}")))?;
        let further = self.containers.further(container);
        let entry = |pid: i32| Entry {
            pid: u32::try_from(pid).unwrap_or(0),
            exec_id: further.get(&pid).cloned().unwrap_or_default(),
            ..Default::default()
        };
        Ok(ProcessList { processes: processes.into_iter().map(entry).collect(), ..Default::default() })
    }

    async fn delete(&self, request: &ProcessRequest) -> Result<Exit, Refusal> {
        self.require_resumed()?;
        let process = self.containers.process(&request.container_id, &request.exec_id)?;
        let container = self.containers.container(&request.container_id)?;
        if process.exit().is_none() {
            let waits = request.exec_id.is_empty() && container.is_adopted();
            if !waits && !process.is_created().await {
                return Err(Refusal::new(Kind::FailedPrecondition, "the process is running: signal it first"));
            }
            process.signal(libc::SIGKILL as u32)?;
        }
        let exit = process.wait().await?;
        if request.exec_id.is_empty() {
            let removed = container.cgroup.remove().await;
            removed.map_err(|error| Refusal::new(Kind::Internal, format!("remove the container's cgroup: {error}")))?;
            self.zygote.forget(&container.place).await;
            self.dismantle(&container.place)?;
        }
        self.containers.remove(&request.container_id, &request.exec_id);
        Ok(exit)
    }
}

#[async_trait]
impl<G: Guest> Agent for Server<G> {
    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<ResumeResponse> {
        self.require_unresumed("Resume")?;
        self.guest.resume(&request)?;
        self.resumed.store(true, Ordering::Release);
        Ok(ResumeResponse {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
            boottime_ns: nanoseconds(ClockId::Boottime),
            ..Default::default()
        })
    }

    async fn set_clock(&self, _: &TtrpcContext, request: SetClockRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.set_clock(request.realtime_ns)?;
        Ok(Empty::new())
    }

    async fn configure_network(&self, _: &TtrpcContext, request: ConfigureNetworkRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.configure_network(&request).await?;
        Ok(Empty::new())
    }

    async fn remove_interface(&self, _: &TtrpcContext, request: RemoveInterfaceRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.remove_interface(request.card).await?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<ProcessCreated> {
        self.require_resumed()?;
        Ok(created(self.make_container(&request).await?))
    }

    async fn create_process(&self, _: &TtrpcContext, request: CreateProcessRequest) -> ttrpc::Result<ProcessCreated> {
        self.require_resumed()?;
        Ok(created(self.make_process(&request).await?))
    }

    async fn start_process(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        let container = self.containers.container(&request.container_id)?;
        if request.exec_id.is_empty() && container.is_adopted() {
            self.wake(&request.container_id, &container).await?;
        } else {
            self.containers.process(&request.container_id, &request.exec_id)?.start().await?;
        }
        Ok(Empty::new())
    }

    async fn wait_process(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<ProcessExit> {
        self.require_resumed()?;
        Ok(self.exit_of(&request.container_id, &request.exec_id).await?)
    }

    async fn signal_process(&self, _: &TtrpcContext, request: SignalProcessRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.signal(&request)?;
        Ok(Empty::new())
    }

    async fn resize_terminal(&self, _: &TtrpcContext, request: ResizeTerminalRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let size = TerminalSize { columns: characters(request.columns), rows: characters(request.rows) };
        self.containers.process(&request.container_id, &request.exec_id)?.resize(size)?;
        Ok(Empty::new())
    }

    async fn list_processes(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<ProcessList> {
        Ok(self.list(&request.container_id)?)
    }

    async fn freeze_container(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.freeze(&request.container_id).await?;
        Ok(Empty::new())
    }

    async fn thaw_container(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.thaw(&request.container_id)?;
        Ok(Empty::new())
    }

    async fn update_container(&self, _: &TtrpcContext, request: UpdateContainerRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.update(&request)?;
        Ok(Empty::new())
    }

    async fn read_stats(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<ContainerStats> {
        self.require_resumed()?;
        Ok(self.stats(&request.container_id)?)
    }

    async fn wait_out_of_memory(
        &self,
        _: &TtrpcContext,
        request: WaitOutOfMemoryRequest,
    ) -> ttrpc::Result<OutOfMemory> {
        self.require_resumed()?;
        Ok(self.out_of_memory(&request).await?)
    }

    async fn delete_process(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<ProcessExit> {
        Ok(exited(self.delete(&request).await?))
    }

    async fn export_upper(&self, _: &TtrpcContext, request: ExportUpperRequest) -> ttrpc::Result<ExportUpperResponse> {
        self.require_resumed()?;
        Ok(self.export(&request).await?)
    }

    async fn notice_changes(&self, _: &TtrpcContext, request: NoticeChangesRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.notice(request.changes).await?;
        Ok(Empty::default())
    }

    async fn release_volumes(&self, _: &TtrpcContext, request: ReleaseVolumesRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.release_volumes(&request.names).await?;
        Ok(Empty::default())
    }

    async fn release_upper(&self, _: &TtrpcContext, request: ReleaseUpperRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.guest.release(request.offset_bytes).await?;
        Ok(Empty::new())
    }

    async fn prepare_image(&self, _: &TtrpcContext, request: PrepareImageRequest) -> ttrpc::Result<Empty> {
        self.require_unresumed("PrepareImage")?;
        self.guest.prepare_image(&request).await?;
        Ok(Empty::new())
    }

    async fn await_ready(&self, _: &TtrpcContext, request: AwaitReadyRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.await_ready(&request).await?;
        Ok(Empty::new())
    }

    async fn rest_container(&self, _: &TtrpcContext, request: ContainerRequest) -> ttrpc::Result<Empty> {
        self.require_resumed()?;
        self.put_to_rest(&request.container_id).await?;
        Ok(Empty::new())
    }

    async fn adopt_container(&self, _: &TtrpcContext, request: AdoptContainerRequest) -> ttrpc::Result<ProcessCreated> {
        self.require_resumed()?;
        Ok(created(self.adopt(&request).await?))
    }

    async fn prepare_capture(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        self.require_unresumed("PrepareCapture")?;
        self.guest.prepare_capture()?;
        Ok(Empty::new())
    }
}

fn created(pid: i32) -> ProcessCreated {
    let (pid, realtime_ns) = (u32::try_from(pid).unwrap_or(0), nanoseconds(ClockId::Realtime));
    ProcessCreated { pid, realtime_ns, ..Default::default() }
}

/// What a clock shows that doesn't go below zero.
fn nanoseconds(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}
