//! Developer commands: builds the product and the emulated host, and runs the
//! demo, the scenarios, the benchmarks and the checks. The Makefile calls these.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a command-line program talks to its user")]

mod accelerator;
mod bench;
mod check;
mod clock;
mod demo;
mod install;
mod job;
mod machine;
mod paths;
mod product;
mod scenarios;
mod step;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::accelerator::Accelerator;
use crate::job::{Flavour, Job};
use crate::machine::{Host, Task};
use crate::product::Profile;

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Developer commands", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a command, or a shell, in a fresh emulated host.
    #[command(subcommand)]
    Host(HostCommand),
    /// Builds everything that the other commands need.
    Build {
        #[arg(long, default_value = "release")]
        profile: Profile,
    },
    /// Shows a container started by runc, cold and restored.
    Demo,
    /// Runs the scenarios in emulated hosts.
    E2e(scenarios::Options),
    /// Measures starts against runc's.
    Bench(bench::Options),
    /// Formatting, lints, documentation, dependency policy, architecture.
    Check,
    /// Installs the product on this machine.
    Install {
        /// Directory to install under, `/` when absent.
        #[arg(long, default_value = "/")]
        root: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// Runs a shell command and exits with its status.
    Run {
        #[command(flatten)]
        options: HostOptions,
        /// The command; several words are joined by blanks.
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// Gives a shell on the host's serial console.
    Shell {
        #[command(flatten)]
        options: HostOptions,
    },
}

#[derive(Debug, clap::Args)]
struct HostOptions {
    /// Which containerd the host runs.
    #[arg(long, default_value = "containerd-2")]
    flavour: Flavour,
    /// Which build of the product it gets; nothing is rebuilt without this.
    #[arg(long)]
    profile: Option<Profile>,
    /// A directory to mount at /host.
    #[arg(long)]
    share: Option<PathBuf>,
    /// The host's memory in MiB.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Gives the host a clock that counts instructions, 2 ns each.
    #[arg(long)]
    counted: bool,
    /// Seconds after which the host is switched off.
    #[arg(long, default_value_t = 600)]
    time_limit: u64,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Host(HostCommand::Run { options, command }) => host_run(&options, &command.join(" ")),
        Command::Host(HostCommand::Shell { options }) => host_shell(&options),
        Command::Build { profile } => {
            product::build(profile)?;
            machine::Parts::build()?.ready_disk(Flavour::Containerd2)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo => demo::run(),
        Command::E2e(options) => scenarios::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Check => check::run(),
        Command::Install { root } => install::run(&root),
    }
}

fn host_job(options: &HostOptions) -> anyhow::Result<Job> {
    let product = product::obtain(options.profile)?;
    Job::new(options.flavour, &product)
}

fn host<'a>(options: &HostOptions, parts: &machine::Parts, job: &'a Job) -> anyhow::Result<Host<'a>> {
    let disk = parts.ready_disk(options.flavour)?;
    let mut host = Host { memory_mib: options.memory, shared: options.share.clone(), ..Host::new(parts, disk, job) };
    if options.counted {
        host.accelerator = Accelerator::CountedEmulation;
    }
    Ok(host)
}

fn host_run(options: &HostOptions, command: &str) -> anyhow::Result<ExitCode> {
    let parts = machine::Parts::build()?;
    let job = host_job(options)?;
    job.write("run", command)?;
    let host = host(options, &parts, &job)?;
    let ending = host.run(Task::Job, Duration::from_secs(options.time_limit), |line| {
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(line).and_then(|()| stdout.flush())
    })?;
    Ok(ending.report(&job))
}

fn host_shell(options: &HostOptions) -> anyhow::Result<ExitCode> {
    let parts = machine::Parts::build()?;
    let job = host_job(options)?;
    println!("Booting; `exit` switches the host off, Ctrl-A X kills it.");
    let host = host(options, &parts, &job)?;
    host.run(Task::Shell, Duration::MAX, |_| Ok(()))?;
    Ok(ExitCode::SUCCESS)
}
