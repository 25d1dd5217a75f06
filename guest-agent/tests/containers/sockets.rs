//! Sockets of the host in containers.

use std::path::Path;

use agent_proto::{ANSWERED, CALLED, CreateContainerRequest, Socket, Stdio, encode_socket_name};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use ttrpc::Code;

use crate::cases::{expect, read_until};
use crate::trial::{Trial, context, shell, spec};

cases! {
    async fn who_connects_to_a_socket_talks_to_the_host(trial) {
        trial.resume().await?;
        let (stdout, mut output) = trial.stream().await?;
        let command = "stat -c '%F %a %u:%g' /run/host.sock; touch /run/host.sock 2>&1 | grep -o Read-only; exec sleep 1000";
        let stdio = Stdio { stdout, ..Default::default() };
        let request = CreateContainerRequest { stdio: Some(stdio).into(), ..with_socket(trial, "a", "a.0", command) };
        let pid = trial.agent.create_container(context(), &request).await?.pid;
        trial.start_process("a", "").await?;

        let seen = read_until(&mut output, "only\n").await?;
        ensure!(seen == "socket 640 0:7\nRead-only\n", "{seen:?}");

        let mut host = UnixStream::connect(trial.folder.path().join("host-sockets")).await?;
        host.write_all(&encode_socket_name("a.0").context("a name")?).await?;
        let socket = format!("/proc/{pid}/root/run/host.sock");
        let mut process = UnixStream::connect(&socket).await?;
        ensure!(host.read_u8().await? == CALLED);
        host.write_all(&[ANSWERED]).await?;
        process.write_all(b"question").await?;
        process.shutdown().await?;
        let mut heard = String::new();
        host.read_to_string(&mut heard).await?;
        ensure!(heard == "question", "{heard:?}");
        host.write_all(b"answer").await?;
        drop(host);
        heard.clear();
        process.read_to_string(&mut heard).await?;
        ensure!(heard == "answer", "{heard:?}");

        let taken = trial.agent.create_container(context(), &with_socket(trial, "b", "a.0", "true")).await;
        expect(taken.map(drop), Code::ALREADY_EXISTS, "\"a.0\" exists already")?;
        trial.kill("a", "", libc::SIGKILL, false).await?;
        trial.wait("a", "").await?;
        trial.delete("a", "").await?;
        ensure!(is_empty(&trial.folder.path().join("sockets"))?, "a socket was left");
        Ok(())
    }

    async fn a_container_that_cannot_be_made_leaves_no_socket(trial) {
        trial.resume().await?;
        let mut request = with_socket(trial, "a", "a.0", "true");
        request.sockets.push(Socket { name: "../b".into(), ..Default::default() });
        expect(trial.agent.create_container(context(), &request).await, Code::INVALID_ARGUMENT, "\"../b\"")?;
        ensure!(is_empty(&trial.folder.path().join("sockets"))?, "a socket was left");
        Ok(())
    }
}

/// A container with a socket that is called so, read-only at /run/host.sock.
fn with_socket(trial: &Trial, id: &str, name: &str, command: &str) -> CreateContainerRequest {
    let mut spec = spec(&shell(command));
    let source = trial.folder.path().join("sockets").join(name);
    let mount = json!({"destination": "/run/host.sock", "type": "bind", "source": source, "options": ["rbind", "ro"]});
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(mount);
    }
    CreateContainerRequest {
        container_id: id.to_owned(),
        spec: spec.to_string().into_bytes(),
        sockets: vec![Socket { name: name.to_owned(), mode: 0o640, gid: 7, ..Default::default() }],
        ..Default::default()
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    Ok(std::fs::read_dir(directory)?.next().is_none())
}
