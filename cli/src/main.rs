//! `supermachine`: shows what supermachine has on a host, and keeps it in order. Nothing needs it: containers start
//! without anyone having run it.
//!
//! `arguments` is the command line, `commands` has a file for each command, and what several of them look at is in
//! `host`, `bakes` and `machines`.
#![forbid(unsafe_code)]

mod arguments;
mod bakes;
mod commands;
mod containerd;
mod doctor;
mod extra_files;
#[cfg(test)]
mod fixture;
mod host;
mod machines;
mod nerdctl;
mod output;
mod progress;
mod quantities;
mod sample;
mod table;

use std::io::ErrorKind;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command};
use host::Host;
use output::OutputError;
use table::clean;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What the library has to say besides its errors.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_none| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => tell(&error),
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.command {
        Command::Completions { shell } => commands::completions::run(*shell)?,
        Command::Man { directory } => commands::man::run(directory)?,
        _ => {
            let host = Host::load(arguments.config.as_deref())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("the async runtime can't be started")?;
            let looked = runtime.block_on(look(&host, arguments.command));
            // Reading layers for a bake that was given up may take long yet.
            runtime.shutdown_background();
            return looked;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The commands that look at a host.
async fn look(host: &Host, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls(format) => commands::ls::run(host, format.json)?,
        Command::Inspect { name, format } => commands::inspect::run(host, &name, format.json).await?,
        Command::Rm { keys, format } => commands::rm::run(host, &keys, format.json)?,
        Command::Prune { all, dry_run, format } => commands::prune::run(host, all, dry_run, format.json).await?,
        Command::Df(format) => commands::df::run(host, format.json)?,
        Command::Bake(options) => commands::bake::run(host, *options).await?,
        Command::Trace { id, format } => commands::trace::run(host, &id, format.json)?,
        Command::Metrics => commands::metrics::run(host)?,
        Command::Doctor(format) => return Ok(commands::doctor::run(host, format.json).await?),
        Command::Completions { .. } | Command::Man { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what went wrong, on one line.
fn tell(error: &anyhow::Error) -> ExitCode {
    if error.chain().filter_map(|cause| cause.downcast_ref::<OutputError>()).any(OutputError::is_closed) {
        return ExitCode::SUCCESS;
    }
    // A machine's name may be in it, which someone else has given.
    eprintln!("supermachine: {}{}", clean(&supermachine::chain(error.as_ref())), hint(error));
    ExitCode::FAILURE
}

/// What most often helps whoever isn't root.
fn hint(error: &anyhow::Error) -> &'static str {
    let is_denied = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    let denied = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(is_denied);
    if denied && !rustix::process::geteuid().is_root() { "; run it as root" } else { "" }
}
