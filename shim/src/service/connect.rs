//! Connect: who serves a task. Never fails.

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse};

use super::Service;

impl Service {
    pub(super) fn run_connect(&self, request: &ConnectRequest) -> ConnectResponse {
        ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.container(&request.id).map_or(0, |container| container.pid()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        }
    }
}
