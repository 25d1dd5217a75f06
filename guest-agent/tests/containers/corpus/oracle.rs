//! Other runtimes, where they are installed: `crun` and `runc`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::report::Report;
use super::site::{Case, Site};
use super::verdict::Verdict;
use crate::trial::Trial;

/// A runtime to compare with.
pub(super) struct Oracle {
    pub(super) name: &'static str,
    /// Its own words about its version.
    pub(super) version: String,
}

/// The name of its containers.
const ID: &str = "oracle";

impl Oracle {
    /// Those that this machine has.
    pub(super) fn installed() -> Vec<Self> {
        let version = |name| {
            let output = Command::new(name).arg("--version").output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            Some(text.lines().next()?.to_owned())
        };
        ["crun", "runc"].into_iter().filter_map(|name| Some(Self { name, version: version(name)? })).collect()
    }

    /// Makes a container of a spec.
    pub(super) fn run(&self, trial: &Trial, site: &Site, case: &Case) -> Result<Verdict> {
        let bundle = tempfile::tempdir()?;
        let mut spec = case.spec.clone();
        if spec["root"].is_object() {
            spec["root"]["path"] = json!(site.rootfs());
        }
        spec["linux"]["cgroupsPath"] = json!(site.cgroup_of(ID));
        // Old versions refuse later ones, whatever is in the spec.
        spec["ociVersion"] = json!("1.0.2");
        let outcome = match &case.further {
            None => self.run_first(bundle.path(), &spec),
            Some(further) => self.run_further(bundle.path(), &spec, further),
        };
        let outcome = outcome.with_context(|| format!("run {}", self.name))?;
        // After some failures it stays.
        let _ = fs::remove_dir(trial.cgroup.join(ID));
        let stdout = String::from_utf8_lossy(&outcome.stdout);
        if stdout.is_empty() {
            return Ok(Verdict::Refused(String::from_utf8_lossy(&outcome.stderr).into_owned()));
        }
        Ok(Verdict::Ran(Report::parse(&stdout, site)))
    }

    fn run_first(&self, bundle: &Path, spec: &Value) -> Result<Output> {
        fs::write(bundle.join("config.json"), spec.to_string())?;
        // Pipes, since with the null device as its input it would hand the container's own to the user.
        let outcome =
            self.command(bundle).args(["run", "--bundle"]).arg(bundle).arg(ID).stdin(Stdio::piped()).output()?;
        self.delete(bundle)?;
        Ok(outcome)
    }

    fn run_further(&self, bundle: &Path, spec: &Value, further: &Value) -> Result<Output> {
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let file = bundle.join("process.json");
        fs::write(&file, further.to_string())?;
        let mut run = self.command(bundle);
        run.args(["run", "--detach", "--bundle"]).arg(bundle).arg(ID);
        // Its output would be kept open by the container.
        let log = bundle.join("log");
        let status = run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?).status()?;
        if !status.success() {
            return Ok(Output { status, stdout: Vec::new(), stderr: fs::read(log)? });
        }
        let outcome =
            self.command(bundle).args(["exec", "--process"]).arg(file).arg(ID).stdin(Stdio::piped()).output()?;
        self.delete(bundle)?;
        Ok(outcome)
    }

    /// Removes what may be left of a container.
    fn delete(&self, bundle: &Path) -> Result<()> {
        self.command(bundle).args(["delete", "--force", ID]).output()?;
        Ok(())
    }

    fn command(&self, bundle: &Path) -> Command {
        let mut command = Command::new(self.name);
        command.arg("--root").arg(bundle.join("state"));
        if self.name == "crun" {
            command.arg("--cgroup-manager=cgroupfs");
        }
        command
    }
}
