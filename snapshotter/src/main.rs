//! `supermachine-snapshotter`: the node daemon. It is containerd's proxy snapshotter, converts layers to squashfs for
//! virtual machines, and makes bakes.
#![forbid(unsafe_code)]

mod bakes;
mod control;
mod daemon;
mod directory;
mod error;
mod exports;
mod filter;
mod labels;
mod layers;
mod metastore;
mod mounts;
mod record;
mod service;
mod snapshots;
mod socket;
mod template;
mod tree;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use supermachine_config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Serves snapshots to containerd, and layers and bakes to the shim. Runs in the foreground.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file [default: /etc/supermachine/config.toml if it exists]
    #[arg(long)]
    config: Option<PathBuf>,
    /// Directory of the snapshots, instead of the configured one
    #[arg(long)]
    root: Option<PathBuf>,
    /// Socket for containerd, instead of the configured one
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Socket for shims, instead of the configured one
    #[arg(long)]
    daemon_socket: Option<PathBuf>,
}

impl Arguments {
    fn config(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::load_from(file)?,
            None => Config::load()?,
        };
        let paths = &mut config.paths;
        for (flag, path) in [
            (self.root, &mut paths.snapshotter),
            (self.socket, &mut paths.snapshotter_socket),
            (self.daemon_socket, &mut paths.daemon_socket),
        ] {
            if let Some(flag) = flag {
                *path = flag;
            }
        }
        Ok(config)
    }
}

fn main() -> anyhow::Result<()> {
    let config = Arguments::parse().config()?;
    let filter = EnvFilter::try_new(&config.log.level).context("log.level in the configuration")?;
    // The journal has its own clock, and is searched for words.
    let is_seen = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_seen)
        .without_time()
        .init();
    // Root without a home or with a strict umask must not change what is made.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let daemon = tokio::task::spawn_blocking(move || daemon::Daemon::open(config)).await??;
        daemon
            .serve(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await
    })
}
