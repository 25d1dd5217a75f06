//! Other runtimes, where they are installed: `crun` and `runc`.

use std::ffi::OsStr;
use std::fs;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

use super::report::Report;
use super::site::{Case, Site};
use super::specs::Entry;
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

    /// Whether it can be compared with: runc before 1.2 knows less of the specification.
    pub(super) fn knows(&self, entry: &Entry) -> bool {
        !self.version.starts_with("runc version 1.1") || ["cgroup", "devices", "seccomp"].contains(&entry.group)
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
            None => self.run_first(bundle.path(), &spec, case.has_terminal()),
            Some(further) => self.run_further(bundle.path(), &spec, further, case.has_terminal()),
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

    fn run_first(&self, bundle: &Path, spec: &Value, terminal: bool) -> Result<Output> {
        fs::write(bundle.join("config.json"), spec.to_string())?;
        let mut run = self.command(bundle);
        run.arg("run");
        let outcome = self.finish(bundle, run, &["--bundle".as_ref(), bundle.as_os_str(), ID.as_ref()], terminal)?;
        self.delete(bundle)?;
        Ok(outcome)
    }

    fn run_further(&self, bundle: &Path, spec: &Value, further: &Value, terminal: bool) -> Result<Output> {
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
        let mut exec = self.command(bundle);
        exec.arg("exec");
        let outcome = self.finish(bundle, exec, &["--process".as_ref(), file.as_os_str(), ID.as_ref()], terminal)?;
        self.delete(bundle)?;
        Ok(outcome)
    }

    /// Runs a command that starts a process, to that process's end.
    fn finish(&self, bundle: &Path, mut command: Command, last: &[&OsStr], terminal: bool) -> Result<Output> {
        if !terminal {
            command.args(last);
            // Pipes, since with the null device as its input it would hand the container's own to the user.
            return Ok(command.stdin(Stdio::piped()).output()?);
        }
        let socket = bundle.join("console");
        let listener = UnixListener::bind(&socket)?;
        command.arg("--detach").arg("--console-socket").arg(socket).args(last);
        let log = bundle.join("console.log");
        let file = fs::File::create(&log)?;
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let status = command.status()?;
        if !status.success() {
            return Ok(Output { status, stdout: Vec::new(), stderr: fs::read(log)? });
        }
        let mut stdout = Vec::new();
        // A terminal that nobody has open any more can't be read: that is its end.
        let _ = fs::File::from(receive_terminal(&listener)?).read_to_end(&mut stdout);
        Ok(Output { status, stdout, stderr: Vec::new() })
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

/// Takes the controlling end of a terminal from whoever connects.
fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd> {
    let (stream, _) = listener.accept()?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 4096];
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors.flatten().next().context("no terminal came")
}
