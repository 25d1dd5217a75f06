//! One scenario: a script with a time limit, and a host that must look the same
//! after it.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::logs;
use crate::residue::Residue;

const SCRIPTS: &str = "/job/scenarios";
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);
/// How long what a scenario used may take to go away.
const SETTLING: Duration = Duration::from_secs(20);

/// A scenario and the folder for its results.
#[derive(Debug)]
pub(crate) struct Scenario {
    name: String,
    script: PathBuf,
    results: PathBuf,
    limit: Duration,
}

impl Scenario {
    /// Reads the script's header; a line `# limit: SECONDS` changes its time limit.
    pub(crate) fn open(name: &str, results: &Path) -> anyhow::Result<Self> {
        let script = Path::new(SCRIPTS).join(format!("{name}.sh"));
        let text = fs::read_to_string(&script).with_context(|| format!("cannot read {}", script.display()))?;
        fs::create_dir_all(results).with_context(|| format!("cannot make {}", results.display()))?;
        Ok(Self { name: name.to_owned(), script, results: results.to_path_buf(), limit: time_limit(&text) })
    }

    /// Runs it on a host where `before` is what there is; the reason when it failed. A scenario that passes leaves the host
    /// so.
    pub(crate) fn run(&self, before: &Residue) -> anyhow::Result<Option<String>> {
        let since = logs::now()?;
        let mut failure = self.run_script()?;
        if failure.is_some() {
            // What is about to be cleaned away is part of the evidence.
            logs::collect(&since, &self.results);
        }
        // A failed scenario may leave anything; only a passed one must not.
        let settling = if failure.is_some() { Duration::ZERO } else { SETTLING };
        let left = before.wait_for_nothing_new(settling)?;
        if !left.is_empty() {
            if failure.is_none() {
                logs::collect(&since, &self.results);
                failure = Some(format!("failed: left behind {}", left.join(", ")));
            }
            before.remove_what_is_new();
        }
        Ok(failure)
    }

    /// Writes the outcome where the launcher looks for it.
    pub(crate) fn record(&self, outcome: &str) -> anyhow::Result<()> {
        let path = self.results.join("outcome");
        fs::write(&path, outcome).with_context(|| format!("cannot write {}", path.display()))
    }

    fn run_script(&self) -> anyhow::Result<Option<String>> {
        let scratch = PathBuf::from("/var/tmp").join(format!("scenario-{}", self.name));
        fs::create_dir_all(&scratch)?;
        let output = File::create(self.results.join("output"))?;
        let mut child = Command::new("bash")
            .args(["-eu", "-o", "pipefail", "-c", r#"source "$0"; source "$1""#])
            .arg("/job/host/scenario.sh")
            .arg(&self.script)
            .env("NAME", &self.name)
            .env("TMPDIR", &scratch)
            .current_dir(&scratch)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Its own process group, so that nothing of it outlives it.
            .process_group(0)
            .spawn()
            .context("cannot run bash")?;
        let status = wait(&mut child, self.limit)?;
        // The group is gone when the script was its only process.
        match killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("cannot kill the scenario's processes"),
        }
        child.wait()?;
        fs::remove_dir_all(&scratch)?;
        Ok(match status {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("failed: {status}; {}", self.last_line())),
            None => Some(format!("failed: not done after {} s", self.limit.as_secs())),
        })
    }

    fn last_line(&self) -> String {
        let bytes = fs::read(self.results.join("output")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").to_owned()
    }
}

fn wait(child: &mut Child, limit: Duration) -> anyhow::Result<Option<ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(None)
}

fn time_limit(script: &str) -> Duration {
    script
        .lines()
        .take_while(|line| line.starts_with('#'))
        .find_map(|line| line.strip_prefix("# limit:")?.trim().parse().ok())
        .map_or(DEFAULT_LIMIT, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_sets_the_limit() {
        assert_eq!(time_limit("# Runs.\n# limit: 300\ntrue\n"), Duration::from_secs(300));
    }

    #[test]
    fn a_line_after_the_header_does_not() {
        assert_eq!(time_limit("# Runs.\ntrue\n# limit: 300\n"), DEFAULT_LIMIT);
    }
}
