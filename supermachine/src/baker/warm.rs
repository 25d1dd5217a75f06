//! The container that a guest is captured with: made, started, waited for, put to rest.

use std::time::Duration;

use agent_proto::{
    AwaitReadyRequest, Capturable, ContainerRequest, CreateContainerRequest, CreateProcessRequest, ProcessRequest,
    RootFilesystem,
};
use serde_json::Value;
use tokio::time::{sleep, timeout};
use ttrpc::context::{Context, with_duration};

use super::BakeError;
use super::guest::Guest;
use crate::vm::resume_request;
use crate::warm::WarmContainer;

/// What the container and its machine are called until somebody adopts them.
const CONTAINER: &str = "warm";
pub(super) const HOSTNAME: &str = "localhost";
/// How long it may take until the container is ready, and a warm-up command until it has ended.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How often a command is asked whether it is.
const READY_POLL: Duration = Duration::from_millis(100);

impl Guest<'_> {
    /// Runs the container until it is ready, and stops it there.
    pub(super) async fn run(&self, rootfs: RootFilesystem, container: &WarmContainer) -> Result<(), BakeError> {
        let within = READY_WITHIN;
        match timeout(within, self.prepare(rootfs, container)).await {
            Ok(Ok(())) => {}
            Ok(Err((action, source))) => return Err(BakeError::Container { action, source: Box::new(source) }),
            Err(_elapsed) => return Err(BakeError::NotReady { seconds: within.as_secs() }),
        }
        let request = ContainerRequest { container_id: CONTAINER.to_owned(), ..Default::default() };
        let rested = self.agent().rest_container(with_duration(self.answer_within()), &request).await;
        rested.map(drop).map_err(|source| BakeError::Container { action: "stopped", source: Box::new(source) })
    }

    async fn prepare(
        &self,
        rootfs: RootFilesystem,
        container: &WarmContainer,
    ) -> Result<(), (&'static str, ttrpc::Error)> {
        let (agent, failed) = (self.agent(), |action| move |source| (action, source));
        let resume = resume_request(HOSTNAME, self.shape()).map_err(|error| ttrpc::Error::Others(error.to_string()));
        let resume = resume.map_err(failed("given a machine"))?;
        agent.resume(Context::default(), &resume).await.map_err(failed("given a machine"))?;
        let create = CreateContainerRequest {
            container_id: CONTAINER.to_owned(),
            spec: container.spec.clone().into_bytes(),
            rootfs: Some(rootfs).into(),
            files: container.neutral_files(),
            capturable: Some(Capturable { stdin: container.stdin, ..Default::default() }).into(),
            ..Default::default()
        };
        agent.create_container(Context::default(), &create).await.map_err(failed("created"))?;
        agent.start_process(Context::default(), &process("")).await.map_err(failed("started"))?;
        let ready = AwaitReadyRequest {
            container_id: CONTAINER.to_owned(),
            port: container.ready.port.unwrap_or(0).into(),
            output: container.ready.output.clone().unwrap_or_default(),
            ..Default::default()
        };
        agent.await_ready(Context::default(), &ready).await.map_err(failed("made ready"))?;
        if !container.ready.command.is_empty() {
            while self
                .exit_of(container, &container.ready.command)
                .await
                .map_err(failed("asked whether it is ready"))?
                != 0
            {
                sleep(READY_POLL).await;
            }
        }
        if !container.warm_up.is_empty() {
            let code = self.exit_of(container, &container.warm_up).await.map_err(failed("warmed up"))?;
            if code != 0 {
                let message = format!("the warm-up command exited with code {code}");
                return Err(("warmed up", ttrpc::Error::Others(message)));
            }
        }
        Ok(())
    }

    /// Runs a command in the container, as what the container itself runs as.
    async fn exit_of(&self, container: &WarmContainer, command: &[String]) -> Result<u32, ttrpc::Error> {
        const NAME: &str = "prepare";
        let agent = self.agent();
        let spec: Value = serde_json::from_str(&container.spec).unwrap_or_default();
        let mut further = spec.get("process").cloned().unwrap_or_default();
        further["args"] = command.into();
        let request = CreateProcessRequest {
            container_id: CONTAINER.to_owned(),
            exec_id: NAME.to_owned(),
            process: further.to_string().into_bytes(),
            ..Default::default()
        };
        agent.create_process(Context::default(), &request).await?;
        let started = agent.start_process(Context::default(), &process(NAME)).await;
        let exit = match started {
            Ok(_) => agent.wait_process(Context::default(), &process(NAME)).await,
            Err(error) => Err(error),
        };
        agent.delete_process(Context::default(), &process(NAME)).await?;
        exit.map(|exit| exit.code)
    }
}

fn process(exec_id: &str) -> ProcessRequest {
    ProcessRequest { container_id: CONTAINER.to_owned(), exec_id: exec_id.to_owned(), ..Default::default() }
}
