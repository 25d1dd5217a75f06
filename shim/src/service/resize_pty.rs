//! ResizePty: the size of a process's terminal.

use agent_proto::ResizeTerminalRequest;
use containerd_shim_protos::api::{Empty, ResizePtyRequest};
use ttrpc::context::with_duration;

use super::{QUICK_CALL, Service};
use crate::error::ServiceError;
use crate::task::Phase;

impl Service {
    pub(super) async fn run_resize_pty(self, request: ResizePtyRequest) -> Result<Empty, ServiceError> {
        let (container, process) = self.process(&request.id, &request.exec_id)?;
        if !process.stdio.terminal || process.phase().exit().is_some() {
            return Ok(Empty::default());
        }
        process.set_size(request.width, request.height);
        if process.is_exec() && process.phase() == Phase::Created {
            // The terminal will be made with this size.
            return Ok(Empty::default());
        }
        let call = ResizeTerminalRequest {
            container_id: request.id,
            exec_id: request.exec_id,
            columns: request.width,
            rows: request.height,
            ..Default::default()
        };
        let resized = container.sandbox.agent().resize_terminal(with_duration(QUICK_CALL), &call).await;
        resized.map_err(|source| ServiceError::agent("resize the terminal", source))?;
        Ok(Empty::default())
    }
}
