//! Start: of a container's init, or of an exec.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use agent_proto::{CreateProcessRequest, ProcessRequest};
use containerd_shim_protos::api::{StartRequest, StartResponse};
use containerd_shim_protos::events::task::{TaskExecStarted, TaskStart};
use supermachine::Owner;
use tokio::time::sleep;
use tracing::warn;
use ttrpc::Code;
use ttrpc::context::with_duration;

use super::{SLOW_CALL, Service, describe};
use crate::error::ServiceError;
use crate::hooks::{self, Status};
use crate::io::LogIdentity;
use crate::start_record;
use crate::task::{Container, ExecSpec, Exit, Process, note, watch, watch_memory};

/// A container that has ended by then is over before anybody looks, and asking containerd to change what it knows of it would
/// only be in the way.
const SHOWN_AFTER: Duration = Duration::from_millis(250);

impl Service {
    pub(super) async fn run_start(self, request: StartRequest) -> Result<StartResponse, ServiceError> {
        let (container, process) = self.process(&request.id, &request.exec_id)?;
        {
            // Until the start is published, an exit that was already noticed has to wait.
            let _turn = process.turn().await;
            let refused = |source| ServiceError::State {
                action: "start",
                process: describe(&request.id, &request.exec_id),
                source,
            };
            process.phase().may_start().map_err(refused)?;
            match &process.exec {
                None => self.start_init(&container, &process).await?,
                Some(exec) => {
                    let _thawed = container.freezer.read().await;
                    container.init.phase().may_start_execs().map_err(refused)?;
                    self.start_exec(&container, &process, exec).await?;
                }
            }
        }
        if !process.is_exec() {
            let state = container.identity.state(Status::Running, container.pid());
            if let Err(error) = hooks::run(&container.hooks.poststart, &state).await {
                warn!("poststart: {}", supermachine::chain(&error));
            }
        }
        Ok(StartResponse { pid: container.pid(), ..Default::default() })
    }

    async fn start_init(&self, container: &Arc<Container>, process: &Process) -> Result<(), ServiceError> {
        container.trace.end("Start received", Owner::Caller);
        if let Err(error) = execute(container, process).await {
            process.io.abort().await;
            note(container, process, failed(&error), &self.shared.publisher);
            return Err(error);
        }
        container.trace.end("process started", Owner::Guest);
        start_record::keep_with_output(container, process);
        tokio::spawn(self.clone().show(Arc::downgrade(container)));
        if process.set_started() {
            self.shared.publisher.publish(TaskStart {
                container_id: container.identity.id.clone(),
                pid: container.pid(),
                ..Default::default()
            });
            tokio::spawn(watch_memory(Arc::clone(container), self.shared.publisher.clone()));
            container.sandbox.watch_volumes().await;
        }
        Ok(())
    }

    /// Has clients show how a container was started, unless it has ended.
    async fn show(self, container: Weak<Container>) {
        sleep(SHOWN_AFTER).await;
        let running = container.upgrade().filter(|container| container.init.phase().exit().is_none());
        // Not kept meanwhile: it may be deleted.
        if let Some(recorder) = running.and_then(|container| container.sandbox.recorder()) {
            self.shared.launcher.show(recorder.start()).await;
        }
    }

    async fn start_exec(
        &self,
        container: &Arc<Container>,
        process: &Arc<Process>,
        exec: &ExecSpec,
    ) -> Result<(), ServiceError> {
        let started = async {
            self.create_process(container, process, exec).await?;
            execute(container, process).await
        };
        if let Err(error) = started.await {
            process.io.abort().await;
            // It never was a process, so no exit is published.
            process.set_exited(failed(&error));
            return Err(error);
        }
        process.set_started();
        self.shared.publisher.publish(TaskExecStarted {
            container_id: container.identity.id.clone(),
            exec_id: exec.id.clone(),
            pid: container.pid(),
            ..Default::default()
        });
        tokio::spawn(watch(Arc::clone(container), Arc::clone(process), self.shared.publisher.clone()));
        Ok(())
    }

    async fn create_process(
        &self,
        container: &Container,
        process: &Process,
        exec: &ExecSpec,
    ) -> Result<(), ServiceError> {
        let log = LogIdentity { namespace: &self.shared.namespace, id: &container.identity.id };
        let mut stdio = process.io.connect(&process.stdio, container.sandbox.as_ref(), &log).await?;
        (stdio.columns, stdio.rows) = process.size();
        let call = CreateProcessRequest {
            container_id: container.identity.id.clone(),
            exec_id: exec.id.clone(),
            process: exec.process.clone(),
            stdio: Some(stdio).into(),
            ..Default::default()
        };
        let created = container.sandbox.agent().create_process(with_duration(SLOW_CALL), &call).await;
        process.set_guest_pid(created.map_err(|source| ServiceError::agent("create the process", source))?.pid);
        Ok(())
    }
}

async fn execute(container: &Container, process: &Process) -> Result<(), ServiceError> {
    process.io.open_stdin()?;
    let call = ProcessRequest {
        container_id: container.identity.id.clone(),
        exec_id: process.exec_id().to_owned(),
        ..Default::default()
    };
    let started = container.sandbox.agent().start_process(with_duration(SLOW_CALL), &call).await;
    started.map(drop).map_err(|source| ServiceError::agent("start the process", source))
}

/// The exit of a process that could not be started, in the shell's convention.
fn failed(error: &ServiceError) -> Exit {
    let status = match error {
        ServiceError::Refused { code: Code::NOT_FOUND, .. } => 127,
        ServiceError::Refused { code: Code::PERMISSION_DENIED | Code::INVALID_ARGUMENT, .. } => 126,
        _ => 128,
    };
    Exit { status, at: SystemTime::now() }
}
