//! Runs scenarios inside the emulated host.
//!
//! `/job/scenario-list` names them, `/job/scenarios` holds their scripts. Hosts
//! that run side by side share `/host`: a scenario belongs to the host that
//! creates `/host/claimed/NAME`, and its results go to `/host/NAME/`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the launcher shows what this prints")]

mod logs;
mod residue;
mod scenario;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;

use crate::residue::Residue;
use crate::scenario::Scenario;

const LIST: &str = "/job/scenario-list";
const HOST: &str = "/job/host-name";
const RESULTS: &str = "/host";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scenario-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let list = fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    // Looking takes seconds where processors are emulated.
    let mut before = Residue::take()?;
    for name in list.lines() {
        if !claim(name)? {
            continue;
        }
        let scenario = Scenario::open(name, &Path::new(RESULTS).join(name))?;
        let started = Instant::now();
        let failure = scenario.run(&before)?;
        if failure.is_some() {
            before = Residue::take()?;
        }
        let outcome = failure.unwrap_or_else(|| "passed".to_owned());
        println!("{name}: {outcome} ({:.1} s)", started.elapsed().as_secs_f64());
        scenario.record(&outcome)?;
    }
    Ok(())
}

/// True if no other host has this scenario. The claim says whose it is.
fn claim(name: &str) -> anyhow::Result<bool> {
    let path = Path::new(RESULTS).join("claimed").join(name);
    match File::create_new(&path) {
        Ok(mut claim) => {
            let host = fs::read(HOST).with_context(|| format!("cannot read {HOST}"))?;
            claim.write_all(&host).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot create {}", path.display())),
    }
}
