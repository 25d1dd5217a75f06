//! What containers may use, and how they are stopped.

use std::fs;
use std::time::Duration;

use agent_proto::{ContainerRequest, ContainerStats, Stdio, UpdateContainerRequest, WaitOutOfMemoryRequest};
use anyhow::{Context, Result, ensure};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use ttrpc::Code;

use crate::cases::{expect, read_until};
use crate::trial::{Trial, context, process, shell, spec};

impl Trial {
    async fn freeze(&self) -> Result<(), ttrpc::Error> {
        self.agent.freeze_container(context(), &container()).await.map(drop)
    }

    async fn thaw(&self) -> Result<(), ttrpc::Error> {
        self.agent.thaw_container(context(), &container()).await.map(drop)
    }

    async fn update(&self, resources: &str) -> Result<(), ttrpc::Error> {
        let resources = resources.as_bytes().to_vec();
        let request = UpdateContainerRequest { container_id: "a".to_owned(), resources, ..Default::default() };
        self.agent.update_container(context(), &request).await.map(drop)
    }

    async fn stats(&self) -> Result<ContainerStats, ttrpc::Error> {
        self.agent.read_stats(context(), &container()).await
    }

    /// A control file of the container's cgroup.
    fn control(&self, file: &str) -> Result<String> {
        Ok(fs::read_to_string(self.cgroup.join("container-a").join(file))?)
    }
}

fn container() -> ContainerRequest {
    ContainerRequest { container_id: "a".to_owned(), ..Default::default() }
}

cases! {
    async fn a_frozen_container_stands_still_and_goes_on(trial) {
        trial.resume().await?;
        let (stdout, mut output) = trial.stream().await?;
        expect(trial.freeze().await, Code::NOT_FOUND, "doesn't exist")?;
        let command = "while :; do echo tick; sleep 0.01; done";
        trial.create("a", &spec(&shell(command)), Stdio { stdout, ..Default::default() }, vec![]).await?;
        expect(trial.freeze().await, Code::FAILED_PRECONDITION, "running")?;
        trial.start_process("a", "").await?;
        read_until(&mut output, "tick").await?;
        trial.freeze().await?;
        ensure!(trial.control("cgroup.events")?.contains("frozen 1"), "not frozen when Freeze answered");
        let mut buffer = [0; 4096];
        while timeout(Duration::from_millis(200), output.read(&mut buffer)).await.is_ok() {}
        expect(
            trial.create_further("a", "b", &process(&["true"]), Stdio::new()).await, Code::FAILED_PRECONDITION, "paused"
        )?;
        trial.thaw().await?;
        ensure!(trial.control("cgroup.events")?.contains("frozen 0"), "frozen when Thaw answered");
        read_until(&mut output, "tick").await?;
        ensure!(trial.run_further("a", "b", &process(&["true"])).await?.code == 0);
        trial.freeze().await?;
        trial.kill("a", "", libc::SIGKILL, false).await?;
        ensure!(trial.wait("a", "").await? == 137);
        expect(trial.freeze().await, Code::FAILED_PRECONDITION, "running")?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn a_signal_can_go_to_all(trial) {
        trial.resume().await?;
        // Until they execute their program, the shell's children take the signal as it does.
        let command = "trap 'wait; exit 9' TERM; sleep 1000 & one=$!; sleep 1000 & two=$!; for pid in $one $two; do \
                       until read -r name </proc/$pid/comm && [ $name = sleep ]; do :; done; done; echo ready; wait";
        let (stdout, mut output) = trial.stream().await?;
        trial.create("a", &spec(&shell(command)), Stdio { stdout, ..Default::default() }, vec![]).await?;
        trial.start_process("a", "").await?;
        read_until(&mut output, "ready").await?;
        trial.create_further("a", "b", &process(&["sleep", "1000"]), Stdio::new()).await?;
        trial.start_process("a", "b").await?;
        // Of an exec there is nothing but itself.
        trial.kill("a", "b", libc::SIGTERM, true).await?;
        ensure!(trial.wait("a", "b").await? == 143);
        ensure!(trial.control("cgroup.procs")?.lines().count() == 3, "others were killed with an exec");
        trial.kill("a", "", libc::SIGTERM, true).await?;
        ensure!(trial.wait("a", "").await? == 9);
        ensure!(trial.agent.list_processes(context(), &container()).await?.processes.is_empty());
        expect(trial.kill("a", "", libc::SIGTERM, true).await, Code::NOT_FOUND, "left")?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn limits_change_all_or_none(trial) {
        trial.resume().await?;
        expect(trial.update("{}").await, Code::NOT_FOUND, "doesn't exist")?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        trial.update(r#"{"unified": {"cgroup.max.depth": "3"}}"#).await?;
        ensure!(trial.control("cgroup.max.depth")? == "3\n");
        trial.start_process("a", "").await?;
        let halfway = r#"{"unified": {"cgroup.max.depth": "5", "cgroup.max.descendants": "few"}}"#;
        expect(trial.update(halfway).await, Code::INVALID_ARGUMENT, "cgroup.max.descendants")?;
        ensure!(trial.control("cgroup.max.depth")? == "3\n");
        expect(trial.update(r#"{"unified": {"cgroup.freeze": "1"}}"#).await, Code::INVALID_ARGUMENT, "cgroup.freeze")?;
        expect(trial.update("[").await, Code::INVALID_ARGUMENT, "linux.resources")?;
        trial.kill("a", "", libc::SIGKILL, false).await?;
        trial.wait("a", "").await?;
        expect(trial.update("{}").await, Code::FAILED_PRECONDITION, "exited")?;
        trial.delete("a", "").await?;
        Ok(())
    }

    async fn figures_stay_until_the_container_goes(trial) {
        trial.resume().await?;
        expect(trial.stats().await, Code::NOT_FOUND, "doesn't exist")?;
        let command = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done";
        trial.create("a", &spec(&shell(command)), Stdio::new(), vec![]).await?;
        let before = trial.stats().await?.cpu.usage_usec;
        trial.start_process("a", "").await?;
        ensure!(trial.wait("a", "").await? == 0);
        let after = trial.stats().await?;
        ensure!(after.cpu.usage_usec > before + 1000, "{before} µs, and {} after a loop", after.cpu.usage_usec);
        ensure!(after.cpu.user_usec + after.cpu.system_usec <= after.cpu.usage_usec + 1, "{after:?}");
        trial.delete("a", "").await?;
        expect(trial.stats().await, Code::NOT_FOUND, "doesn't exist")
    }

    async fn who_waits_for_the_lack_of_memory_is_told_the_exit(trial) {
        if !fs::read_to_string(trial.cgroup.join("cgroup.controllers"))?.contains("memory") {
            println!("    (no memory controller here: nothing to wait for)");
            return Ok(());
        }
        fs::write(trial.cgroup.join("cgroup.subtree_control"), "+memory").context("enable the memory controller")?;
        trial.resume().await?;
        trial.create("a", &spec(&["sleep", "1000"]), Stdio::new(), vec![]).await?;
        trial.start_process("a", "").await?;
        let request = WaitOutOfMemoryRequest { container_id: "a".to_owned(), ..Default::default() };
        let killed = async { trial.kill("a", "", libc::SIGKILL, false).await };
        let (answer, killed) = tokio::join!(trial.agent.wait_out_of_memory(context(), &request), killed);
        killed?;
        ensure!(answer?.oom_kills == 0);
        trial.delete("a", "").await?;
        Ok(())
    }
}
