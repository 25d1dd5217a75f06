//! The demonstration: one container started by runc, cold and restored.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::job::{Flavour, Job};
use crate::machine::{Host, Parts, Task};
use crate::product::{self, Profile};
use crate::step::step;

/// Builds what is missing, runs `e2e/host/demo.sh` in a fresh host and exits
/// with its status.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let product = product::build(Profile::Release)?;
    product.require_whole()?;
    let parts = step("emulated host", Parts::build)?;
    let disk = parts.ready_disk(Flavour::Containerd2)?;
    let job = Job::new(Flavour::Containerd2, &product)?;
    job.write("run", "exec bash /job/host/demo.sh")?;
    let ending = step("demonstration", || {
        Host::new(&parts, disk, &job).run(Task::Job, Duration::from_secs(900), |line| {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(line).and_then(|()| stdout.flush())
        })
    })?;
    Ok(ending.report(&job))
}
