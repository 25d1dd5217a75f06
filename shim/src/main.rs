//! `containerd-shim-supermachine-v2`: the containerd runtime `io.containerd.supermachine.v2`.
//!
//! containerd runs this program with `start`, `delete`, `-info` or `-v`. `start` runs it once more as the daemon that
//! serves the Task service for one container (or one group of them) until the last is deleted. A reader follows a
//! container through `service/create`, `bundle`, `sandbox`, `task` and `events`.
#![forbid(unsafe_code)]

mod bootstrap;
mod bundle;
mod daemon;
mod error;
mod events;
mod hooks;
mod host_cgroup;
mod io;
mod log;
mod metrics;
mod process_record;
mod remains;
mod sandbox;
mod service;
mod start_record;
mod task;

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

/// The name containerd knows this runtime by.
const RUNTIME_NAME: &str = "io.containerd.supermachine.v2";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // containerd shows what a failed shim wrote; a daemon's standard error is discarded, so that logs as well.
            let chain = supermachine::chain(failure.as_ref());
            tracing::error!("{chain}");
            // Nothing is left to tell when standard error is closed.
            drop(writeln!(std::io::stderr(), "{RUNTIME_NAME}: {chain}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments)?;
    if flags.version {
        return Ok(writeln!(std::io::stdout(), "{RUNTIME_NAME} {}", env!("CARGO_PKG_VERSION"))?);
    }
    if flags.info {
        return Ok(bootstrap::info::run()?);
    }
    match flags.action.as_str() {
        "start" => Ok(bootstrap::start::run(&flags)?),
        "delete" => Ok(bootstrap::delete::run(&flags)?),
        "" if !flags.socket.is_empty() => Ok(daemon::run(&flags)?),
        action => Err(format!("unknown action {action:?}: containerd runs this program with start or delete").into()),
    }
}
