//! The generated trait, joined to the files beside: a span for each call, and every method named.

use containerd_shim_protos::api::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
    DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse,
    ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
    StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest, WaitResponse,
};
use containerd_shim_protos::shim_async::Task;
use tracing::{Instrument as _, Span, info_span, warn};
use ttrpc::asynchronous::TtrpcContext;

use super::Service;
use crate::error::ServiceError;

/// Runs a call to its end, also when the caller hangs up or its time limit passes: a container half created by an
/// abandoned call would belong to nobody.
async fn finish<T: Send + 'static>(
    span: Span,
    call: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> ttrpc::Result<T> {
    let call = async move {
        let result = call.await;
        if let Err(error) = &result {
            warn!("{}", supermachine::chain(error));
        }
        result
    };
    let result = tokio::spawn(call.instrument(span)).await.map_err(ServiceError::Internal).flatten();
    Ok(result?)
}

macro_rules! span {
    ($service:expr, $name:literal, $id:expr) => {
        info_span!($name, ns = $service.shared.namespace, id = $id)
    };
    ($service:expr, $name:literal, $id:expr, $exec:expr) => {
        info_span!($name, ns = $service.shared.namespace, id = $id, exec_id = $exec)
    };
}

#[async_trait::async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> ttrpc::Result<CreateTaskResponse> {
        finish(span!(self, "create", request.id), self.clone().run_create(request)).await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> ttrpc::Result<StartResponse> {
        finish(span!(self, "start", request.id, request.exec_id), self.clone().run_start(request)).await
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
        finish(span!(self, "delete", request.id, request.exec_id), self.clone().run_delete(request)).await
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> ttrpc::Result<Empty> {
        let _span = span!(self, "exec", request.id, request.exec_id).entered();
        Ok(self.run_exec(request)?)
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        finish(span!(self, "kill", request.id, request.exec_id), self.clone().run_kill(request)).await
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> ttrpc::Result<WaitResponse> {
        Ok(self.run_wait(&request).await?)
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(self.run_state(&request)?)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> ttrpc::Result<PidsResponse> {
        let span = span!(self, "pids", request.id);
        Ok(self.run_pids(&request).instrument(span).await?)
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        finish(span!(self, "resize_pty", request.id, request.exec_id), self.clone().run_resize_pty(request)).await
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> ttrpc::Result<Empty> {
        Ok(self.run_close_io(&request)?)
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> ttrpc::Result<ConnectResponse> {
        Ok(self.run_connect(&request))
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        let span = span!(self, "shutdown", request.id);
        Ok(self.run_shutdown().instrument(span).await)
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> ttrpc::Result<Empty> {
        finish(span!(self, "pause", request.id), self.clone().run_pause(request)).await
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> ttrpc::Result<Empty> {
        finish(span!(self, "resume", request.id), self.clone().run_resume(request)).await
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> ttrpc::Result<Empty> {
        finish(span!(self, "update", request.id), self.clone().run_update(request)).await
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        let span = span!(self, "stats", request.id);
        Ok(self.run_stats(&request).instrument(span).await?)
    }

    // What the generated default would answer, "not found", means to containerd that the task is gone.

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        Err(ServiceError::Unimplemented { rpc: "Checkpoint" }.into())
    }
}
