//! `start`: finds or makes the socket, leaves a daemon serving it, and prints its address.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim::Flags;
use containerd_shim_protos::protobuf;
use serde::Deserialize;
use thiserror::Error;

use super::params::{Environment, StartParams};
use super::read_stdin;
use super::socket::{Bound, SocketError, SocketPath};
use crate::sandbox::group_of;

/// Why no daemon serves the container.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    /// Standard input broke.
    #[error("read the bootstrap parameters from standard input")]
    ReadParams(#[source] io::Error),
    /// The bundle has no readable specification.
    #[error("read {path}")]
    ReadSpec {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The specification isn't one.
    #[error("parse {path}")]
    ParseSpec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// No socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The daemon could not be run.
    #[error("run the shim's daemon")]
    Spawn(#[source] io::Error),
    /// The daemon could not be put where containerd wants it.
    #[error("set the cgroup and out-of-memory score of the shim's daemon")]
    Confine(#[source] containerd_shim::Error),
    /// The address could not be left in the bundle.
    #[error("write {path}")]
    WriteAddress {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The reply could not be encoded.
    #[error("encode the reply")]
    Encode(#[source] protobuf::Error),
    /// Standard output is gone.
    #[error("write the reply")]
    Reply(#[source] io::Error),
}

/// The one field of the specification that `start` looks at.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// Runs `start` in the current directory, which is the bundle.
pub(crate) fn run(flags: &Flags) -> Result<(), StartError> {
    let input = read_stdin().map_err(StartError::ReadParams)?;
    let params = StartParams::resolve(&input, flags, Environment::read());
    let bundle = Path::new(if flags.bundle.is_empty() { "." } else { &flags.bundle });
    let group = read_group(&bundle.join("config.json"))?.unwrap_or_else(|| params.id.clone());
    let socket = SocketPath::new(&params.socket_dir, &params.grpc_address, &params.namespace, &group);
    let address = socket.to_string();
    if let Bound::New(listener) = socket.bind()? {
        spawn_daemon(&params, bundle, &address, listener).inspect_err(|_| drop(super::remove_socket(&socket)))?;
    }
    let path = bundle.join("address");
    fs::write(&path, &address).map_err(|source| StartError::WriteAddress { path, source })?;
    let reply = params.reply.encode(&address).map_err(StartError::Encode)?;
    io::stdout().write_all(&reply).map_err(StartError::Reply)
}

/// The group that a bundle's specification, at `path`, names.
pub(super) fn read_group(path: &Path) -> Result<Option<String>, StartError> {
    let text = fs::read(path).map_err(|source| StartError::ReadSpec { path: path.into(), source })?;
    let spec: Annotated =
        serde_json::from_slice(&text).map_err(|source| StartError::ParseSpec { path: path.into(), source })?;
    let annotations = spec.annotations.unwrap_or_default();
    Ok(group_of(|name| annotations.get(name).map(String::as_str)).map(str::to_owned))
}

/// Runs this program again, with the listening socket as its standard input.
fn spawn_daemon(params: &StartParams, bundle: &Path, address: &str, listener: UnixListener) -> Result<(), StartError> {
    let mut command = Command::new(std::env::current_exe().map_err(StartError::Spawn)?);
    command
        .args(["-namespace", &params.namespace, "-id", &params.id, "-address", &params.grpc_address])
        .args(["-socket", address])
        .args(params.debug.then_some("-debug"))
        .env("TTRPC_ADDRESS", &params.ttrpc_address)
        .current_dir(bundle)
        .process_group(0)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut daemon = command.spawn().map_err(StartError::Spawn)?;
    let confined = containerd_shim::cgroup::set_cgroup_and_oom_score(daemon.id(), &params.shim_cgroup);
    confined.map_err(|source| {
        // It can only have ended already, which is what is wanted.
        drop(daemon.kill());
        StartError::Confine(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_group_annotation_names_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for (spec, group) in [
            (r#"{"ociVersion":"1.0.2"}"#, None),
            (r#"{"annotations":null}"#, None),
            (r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"},"process":{"args":["x"]}}"#, Some("pod")),
            (r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"g"}}"#, Some("g")),
        ] {
            fs::write(&path, spec).unwrap();
            assert_eq!(read_group(&path).unwrap().as_deref(), group, "{spec}");
        }
        fs::write(&path, "{").unwrap();
        assert!(matches!(read_group(&path), Err(StartError::ParseSpec { .. })));
    }
}
