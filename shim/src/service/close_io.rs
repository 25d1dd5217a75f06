//! CloseIO: ends a process's standard input.

use containerd_shim_protos::api::{CloseIORequest, Empty};

use super::Service;
use crate::error::ServiceError;

impl Service {
    pub(super) fn run_close_io(&self, request: &CloseIORequest) -> Result<Empty, ServiceError> {
        let (_, process) = self.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.io.close_stdin();
        }
        Ok(Empty::default())
    }
}
