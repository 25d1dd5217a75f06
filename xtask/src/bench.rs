//! Benchmarks: our starts, networks or volumes against runc's, in one boot of one host.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;

use crate::accelerator::Accelerator;
use crate::job::{Flavour, Job};
use crate::machine::{Ending, Host, Parts, Task};
use crate::product::{self, Profile};
use crate::step::step;

/// Which measurements.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Takes one clock's figures only.
    #[arg(long)]
    clock: Option<Clock>,
    /// What is measured.
    #[arg(long, default_value = "starts")]
    what: What,
    /// How many times each is measured.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(3..))]
    runs: u16,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Containers' starts, and processes in running ones.
    Starts,
    /// Streams and round trips through a bridge, and what a network adds to a start.
    Network,
    /// Reading from a volume, unpacking onto one and onto the writable layer, and what a volume adds to a start.
    Volumes,
    /// From a start to the first answer of a server that is restored as it runs.
    Warm,
}

/// What the host's clock counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clock {
    /// Time that passes on this machine.
    Wall,
    /// Instructions of the emulated processor, 2 ns each.
    Instructions,
}

/// Takes the figures and prints them with the command that made them.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let product = product::build(Profile::Release)?;
    product.require_whole()?;
    let parts = step("emulated host", Parts::build)?;
    let disk = parts.ready_disk(Flavour::Containerd2)?;
    let clocks = options.clock.map_or(vec![Clock::Wall, Clock::Instructions], |clock| vec![clock]);
    let mut all_met = true;
    for clock in clocks {
        let job = Job::new(Flavour::Containerd2, &product)?;
        job.write("clock", clock.name())?;
        job.write("run", &format!("exec bash /job/host/{} {} {}", options.what.script(), clock.name(), options.runs))?;
        let mut host = Host::new(&parts, disk.clone(), &job);
        host.accelerator = clock.accelerator();
        if clock == Clock::Instructions {
            // Of which the disk may take 4 GiB.
            job.write("state-in-memory", "")?;
            host.memory_mib = 8192;
        }
        let ending = step(clock.title(), || {
            host.run(Task::Job, Duration::from_secs(3000), |line| {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(line).and_then(|()| stdout.flush())
            })
        })?;
        println!(
            "    made by: cargo run -p xtask -- bench{} --clock {} --runs {}",
            options.what.option(),
            clock.name(),
            options.runs
        );
        ensure!(
            !matches!(ending, Ending::Died | Ending::Stuck | Ending::TimedOut),
            "no figures: {}\n{}",
            ending.describe(),
            job.console_tail()
        );
        all_met &= matches!(ending, Ending::Finished(0));
    }
    Ok(if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl What {
    fn script(self) -> &'static str {
        match self {
            Self::Starts => "bench.sh",
            Self::Network => "network.sh",
            Self::Volumes => "volumes.sh",
            Self::Warm => "warm.sh",
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Starts => "",
            Self::Network => " --what network",
            Self::Volumes => " --what volumes",
            Self::Warm => " --what warm",
        }
    }
}

impl Clock {
    fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Instructions => "instructions",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Wall => "benchmark, time that passes (emulated: only the ratios mean anything)",
            Self::Instructions => {
                "benchmark, virtual time (instructions, 2 ns each; no cache misses, no cost of leaving a guest)"
            }
        }
    }

    fn accelerator(self) -> Accelerator {
        match self {
            Self::Wall => Accelerator::Emulation,
            Self::Instructions => Accelerator::CountedEmulation,
        }
    }
}
