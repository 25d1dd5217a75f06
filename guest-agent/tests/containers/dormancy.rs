//! Containers that a machine is captured with. The machine here isn't: what is seen is what the agent does before and after.

use agent_proto::{
    AdoptContainerRequest, AwaitReadyRequest, Capturable, ContainerRequest, CreateContainerRequest, File, Stdio,
};
use anyhow::{Result, ensure};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use ttrpc::Code;

use crate::trial::{Trial, context, process, shell, spec, status};

/// What containers are called before somebody adopts them.
const WARM: &str = "warm";

impl Trial {
    async fn create_capturable(&self, spec: &Value) -> Result<u32, ttrpc::Error> {
        let file = File { path: "/etc/hosts".to_owned(), mode: 0o644, ..Default::default() };
        let request = CreateContainerRequest {
            container_id: WARM.to_owned(),
            spec: spec.to_string().into_bytes(),
            files: vec![file],
            capturable: Some(Capturable { stdin: true, ..Default::default() }).into(),
            ..Default::default()
        };
        self.agent.create_container(context(), &request).await.map(|created| created.pid)
    }

    async fn await_ready(&self, port: u32, output: &str) -> Result<(), ttrpc::Error> {
        let request =
            AwaitReadyRequest { container_id: WARM.to_owned(), port, output: output.to_owned(), ..Default::default() };
        self.agent.await_ready(context(), &request).await.map(drop)
    }

    async fn rest(&self) -> Result<(), ttrpc::Error> {
        let request = ContainerRequest { container_id: WARM.to_owned(), ..Default::default() };
        self.agent.rest_container(context(), &request).await.map(drop)
    }

    /// Puts a container that has written `ready` to rest, as it would be captured, and resumes.
    async fn restore(&self, command: &str) -> Result<()> {
        self.resume().await?;
        self.create_capturable(&spec(&shell(command))).await?;
        self.start_process(WARM, "").await?;
        self.await_ready(0, "ready").await?;
        self.rest().await?;
        self.prepare_capture().await?;
        self.resume().await
    }

    async fn adopt(&self, id: &str, stdio: Stdio, clone_process: &[&str]) -> Result<u32, ttrpc::Error> {
        let clone_process =
            if clone_process.is_empty() { Vec::new() } else { process(clone_process).to_string().into_bytes() };
        let hosts = File { path: "/etc/hosts".to_owned(), content: b"adopted\n".to_vec(), ..Default::default() };
        let request = AdoptContainerRequest {
            container_id: id.to_owned(),
            stdio: Some(stdio).into(),
            files: vec![hosts],
            hostname: id.to_owned(),
            resources: br#"{"unified": {"cgroup.max.depth": "7"}}"#.to_vec(),
            clone_process,
            ..Default::default()
        };
        self.agent.adopt_container(context(), &request).await.map(|created| created.pid)
    }

    async fn output(&self) -> Result<(Stdio, UnixStream)> {
        let (stdout, stream) = self.stream().await?;
        Ok((Stdio { stdout, ..Default::default() }, stream))
    }
}

fn expect<T>(outcome: Result<T, ttrpc::Error>, code: Code, words: &str) -> Result<()> {
    let found = outcome.err().and_then(|error| status(&error));
    ensure!(found.as_ref().is_some_and(|(found, text)| *found == code && text.contains(words)), "{found:?}");
    Ok(())
}

cases! {
    /// A container goes on as the one that adopts it, with all its output, and after it was told.
    async fn adopted_container_goes_on(trial) {
        let command = "echo ready; until grep -q adopted /etc/hosts; do sleep 0.01; done; hostname; cat /etc/hosts; cat";
        trial.restore(command).await?;
        let (mut stdio, mut stdout) = trial.output().await?;
        let (stdin, input) = trial.stream().await?;
        stdio.stdin = stdin;
        trial.adopt("mine", stdio, &shell("hostname > /tmp/told")).await?;
        expect(trial.wait(WARM, "").await, Code::NOT_FOUND, "doesn't exist")?;
        ensure!(!trial.folder.path().join("rootfs/tmp/told").exists(), "it was told before it was started");
        trial.start_process("mine", "").await?;
        ensure!(std::fs::read_to_string(trial.folder.path().join("rootfs/tmp/told"))? == "mine\n");
        let limit = std::fs::read_to_string(trial.cgroup.join(format!("container-{WARM}")).join("cgroup.max.depth"))?;
        ensure!(limit.trim() == "7", "{limit}");
        expect(trial.start_process("mine", "").await, Code::FAILED_PRECONDITION, "started already")?;
        let seen = trial.run_further("mine", "exec", &process(&["hostname"])).await?;
        ensure!(seen.stdout == "mine\n", "{seen:?}");
        drop(input);
        let mut text = String::new();
        stdout.read_to_string(&mut text).await?;
        ensure!(text == "ready\nmine\nadopted\n", "{text}");
        ensure!(trial.wait("mine", "").await? == 0);
        trial.delete("mine", "").await?;
        Ok(())
    }

    /// While it rests, the gate is closed, and nobody else can be adopted.
    async fn resting_container_is_nobodys(trial) {
        trial.resume().await?;
        expect(trial.adopt("mine", Stdio::default(), &[]).await, Code::FAILED_PRECONDITION, "no container rests")?;
        trial.create_capturable(&spec(&shell("echo ready; cat"))).await?;
        trial.start_process(WARM, "").await?;
        trial.await_ready(0, "ready").await?;
        trial.rest().await?;
        expect(trial.wait(WARM, "").await, Code::FAILED_PRECONDITION, "call Resume first")?;
        expect(trial.adopt("mine", Stdio::default(), &[]).await, Code::FAILED_PRECONDITION, "call Resume first")?;
        trial.resume().await?;
        let other = spec(&["true"]);
        trial.create("other", &other, Stdio::default(), Vec::new()).await?;
        expect(trial.adopt("other", Stdio::default(), &[]).await, Code::ALREADY_EXISTS, "exists already")?;
        trial.delete("other", "").await?;
        trial.adopt("mine", Stdio::default(), &[]).await?;
        // It was never started: it needs no signal first.
        ensure!(trial.delete("mine", "").await?.code == 128 + 9);
        Ok(())
    }

    /// What ends before it is ready is told of with what it said.
    async fn capturable_container_that_ends_is_never_ready(trial) {
        trial.resume().await?;
        trial.create_capturable(&spec(&shell("echo no configuration >&2; exit 3"))).await?;
        trial.start_process(WARM, "").await?;
        expect(trial.await_ready(0, "ready").await, Code::FAILED_PRECONDITION, "code 3")?;
        expect(trial.await_ready(1, "").await, Code::FAILED_PRECONDITION, "no configuration")?;
        expect(trial.rest().await, Code::FAILED_PRECONDITION, "isn't running")?;
        trial.delete(WARM, "").await?;
        Ok(())
    }

    /// A port is one of the container's own network, however it listens.
    async fn port_is_listened_on(trial) {
        trial.resume().await?;
        trial.create_capturable(&spec(&shell("nc -l -p 8080 & nc -l -p 8081"))).await?;
        trial.start_process(WARM, "").await?;
        trial.await_ready(8080, "").await?;
        trial.await_ready(8081, "").await?;
        expect(trial.await_ready(65536, "").await, Code::INVALID_ARGUMENT, "65536")?;
        trial.kill(WARM, "", 9, true).await?;
        trial.wait(WARM, "").await?;
        trial.delete(WARM, "").await?;
        Ok(())
    }

    /// Nothing else may run, and only what was made for it can be captured.
    async fn only_a_container_alone_can_rest(trial) {
        trial.resume().await?;
        trial.create(WARM, &spec(&["cat"]), Stdio::default(), Vec::new()).await?;
        expect(trial.rest().await, Code::FAILED_PRECONDITION, "wasn't made to be captured")?;
        trial.delete(WARM, "").await?;
        trial.create_capturable(&spec(&["cat"])).await?;
        expect(trial.rest().await, Code::FAILED_PRECONDITION, "isn't running")?;
        trial.start_process(WARM, "").await?;
        trial.create_further(WARM, "exec", &process(&["sleep", "100"]), Stdio::default()).await?;
        expect(trial.rest().await, Code::FAILED_PRECONDITION, "something else runs")?;
        trial.delete(WARM, "exec").await?;
        trial.create("other", &spec(&["cat"]), Stdio::default(), Vec::new()).await?;
        expect(trial.rest().await, Code::FAILED_PRECONDITION, "something else runs")?;
        trial.delete("other", "").await?;
        trial.rest().await?;
        trial.resume().await?;
        trial.adopt(WARM, Stdio::default(), &[]).await?;
        trial.delete(WARM, "").await?;
        Ok(())
    }

    /// A container that can't be told doesn't run.
    async fn clone_process_that_fails_ends_the_container(trial) {
        trial.restore("echo ready; sleep 100").await?;
        trial.adopt("mine", Stdio::default(), &shell("exit 5")).await?;
        expect(trial.start_process("mine", "").await, Code::FAILED_PRECONDITION, "code 5")?;
        ensure!(trial.wait("mine", "").await? == 128 + 9);
        trial.delete("mine", "").await?;
        Ok(())
    }
}
