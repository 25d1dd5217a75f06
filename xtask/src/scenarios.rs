//! Runs the scenarios in emulated hosts, side by side.
//!
//! Every host has one vCPU, so two of them use two cores; they take scenarios
//! from one list by creating a file per scenario in a folder that both see.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use glob::Pattern;

use crate::job::{Flavour, Job};
use crate::machine::{Ending, Host, Parts, Task};
use crate::paths;
use crate::product::{self, Product, Profile};
use crate::step::step;

/// Lines of a failed scenario that are shown: a guest kernel's last words fit, and what was made of them.
const LINES_OF_A_FAILURE: usize = 120;

/// What to run, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs the scenarios whose name matches this glob, or one of several with commas between them.
    #[arg(long, default_value = "*")]
    filter: String,
    /// Which containerd the hosts run.
    #[arg(long, default_value = "containerd-2")]
    flavour: Flavour,
    /// Builds this and gives it to them; without it they get what lies around.
    #[arg(long)]
    profile: Option<Profile>,
    /// Leaves out scenarios that may take longer, in seconds.
    #[arg(long)]
    up_to: Option<u64>,
    /// Runs the repetitions that are too long for every day instead.
    #[arg(long)]
    soak: bool,
    /// How many hosts run side by side.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    hosts: u8,
    /// Seconds after which a host is switched off.
    #[arg(long, default_value_t = 4500)]
    time_limit: u64,
}

/// Runs the matching scenarios; the last line is `N passed, N failed`.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let outcomes = match outcomes(options) {
        Ok(outcomes) => outcomes,
        Err(error) => {
            println!("0 passed, 0 failed");
            return Err(error);
        }
    };
    let failed: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome != "passed").collect();
    for (name, outcome) in &failed {
        let results = options.results().join(name);
        let output = fs::read(results.join("output")).unwrap_or_default();
        for line in last_lines(&String::from_utf8_lossy(&output)) {
            println!("    {line}");
        }
        println!("FAILED {name}: {outcome}; see {}", results.display());
    }
    println!("{} passed, {} failed", outcomes.len() - failed.len(), failed.len());
    Ok(if failed.is_empty() && !outcomes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn outcomes(options: &Options) -> anyhow::Result<BTreeMap<String, String>> {
    let names = options.matching()?;
    ensure!(!names.is_empty(), "no scenario matches {}", options.filter);
    let product = product::obtain(options.profile)?;
    let parts = step("emulated host", Parts::build)?;
    let disk = parts.ready_disk(options.flavour)?;
    let extras = options.extras(&names)?;
    let results = options.results();
    let _lock = lock(&results)?;
    if results.exists() {
        fs::remove_dir_all(&results).with_context(|| format!("cannot empty {}", results.display()))?;
    }
    fs::create_dir_all(results.join("claimed"))?;
    let hosts = usize::from(options.hosts).min(names.len());
    let fleet = Fleet { options, names, parts, disk, product, extras };
    step(&format!("{} scenarios in {hosts} hosts with {}", fleet.names.len(), options.flavour.name()), || {
        fleet.run(1..=hosts)?;
        fleet.run_again(hosts + 1)
    })?;
    Ok(fleet
        .names
        .into_iter()
        .map(|name| (outcome(&results, &name), name))
        .map(|(outcome, name)| (name, outcome))
        .collect())
}

/// What every host is made from.
struct Fleet<'a> {
    options: &'a Options,
    names: Vec<String>,
    parts: Parts,
    disk: PathBuf,
    product: Product,
    /// Further parts by name.
    extras: BTreeMap<String, PathBuf>,
}

impl Fleet<'_> {
    fn run(&self, hosts: RangeInclusive<usize>) -> anyhow::Result<()> {
        std::thread::scope(|scope| {
            let running: Vec<_> = hosts.map(|number| scope.spawn(move || self.run_host(number))).collect();
            for host in running {
                host.join().map_err(|_panic| anyhow::anyhow!("a thread that runs a host panicked"))??;
            }
            Ok(())
        })
    }

    /// Tries once more, in a new host, what failed when a guest's kernel died: the emulator is at fault, unless it happens
    /// again. A soak is there to find such things.
    fn run_again(&self, host: usize) -> anyhow::Result<()> {
        let results = self.options.results();
        let has_failed = |name: &&String| outcome(&results, name) != "passed";
        let failed: Vec<_> = self.names.iter().filter(has_failed).filter(|name| has_panic(&results, name)).collect();
        if failed.is_empty() || self.options.soak {
            return Ok(());
        }
        for name in failed {
            println!("[host {host}] {name}: a guest's kernel died, tried once more; the first try is in {name}.first");
            fs::rename(results.join(name), results.join(format!("{name}.first")))
                .with_context(|| format!("cannot put {name} aside"))?;
            fs::remove_file(results.join("claimed").join(name)).with_context(|| format!("cannot give {name} back"))?;
        }
        self.run(host..=host)
    }

    /// Runs a host until nothing is left to do. One that lost its clock is followed by another, which tries once more
    /// what that one was at: the emulator is at fault, unless it happens again.
    fn run_host(&self, number: usize) -> anyhow::Result<()> {
        let mut tried = BTreeSet::new();
        loop {
            let name = format!("host-{number}.{}", tried.len());
            match self.run_host_once(number, &name)? {
                Ending::Stuck => {}
                _ => return Ok(()),
            }
            let cut_off = held_by(&self.options.results(), &self.names, &name);
            if cut_off.is_empty() || !cut_off.iter().all(|scenario| tried.insert(scenario.clone())) {
                return Ok(());
            }
            for scenario in cut_off {
                println!("[host {number}] {scenario}: cut off, and tried once more in a new host");
                let results = self.options.results();
                fs::remove_dir_all(results.join(&scenario)).with_context(|| format!("cannot forget {scenario}"))?;
                fs::remove_file(results.join("claimed").join(&scenario))
                    .with_context(|| format!("cannot give {scenario} back"))?;
            }
        }
    }

    fn run_host_once(&self, number: usize, name: &str) -> anyhow::Result<Ending> {
        let job = Job::new(self.options.flavour, &self.product)?;
        job.add_folder(&self.options.folder(), "scenarios")?;
        for (part, folder) in &self.extras {
            job.add_folder(folder, part)?;
        }
        job.write("scenario-list", &self.names.join("\n"))?;
        job.write("host-name", name)?;
        job.write("run", "/job/bin/scenario-runner")?;
        let host = Host { shared: Some(self.options.results()), ..Host::new(&self.parts, self.disk.clone(), &job) };
        let ending = host.run(Task::Job, Duration::from_secs(self.options.time_limit), |line| {
            print!("[host {number}] {}", String::from_utf8_lossy(line));
            Ok(())
        })?;
        let console = self.options.results().join(format!("{name}-console.log"));
        fs::copy(job.outside("console.log"), console).context("the host left no console log")?;
        println!("[host {number}] {}", ending.describe());
        Ok(ending)
    }
}

/// The scenarios that a host has taken and not finished.
fn held_by(results: &Path, names: &[String], host: &str) -> Vec<String> {
    let holder = |name: &str| fs::read_to_string(results.join("claimed").join(name)).unwrap_or_default();
    let is_open = |name: &&String| !results.join(name).join("outcome").exists() && holder(name).trim_end() == host;
    names.iter().filter(is_open).cloned().collect()
}

/// What a scenario's header says for a key, in lines `# KEY: VALUE`.
fn header<'a>(script: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    let lines = script.lines().take_while(|line| line.starts_with('#'));
    lines.filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// Seconds that a scenario may take, where its header says it.
fn time_limit(script: &str) -> Option<u64> {
    header(script, "limit").find_map(|limit| limit.parse().ok())
}

/// The end of what a scenario printed. Where the results folder isn't kept, this is all that is left of a failure.
fn last_lines(output: &str) -> Vec<&str> {
    let lines: Vec<_> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_OF_A_FAILURE)..].to_vec()
}

/// Whether a scenario shows that a guest's kernel died.
fn has_panic(results: &Path, name: &str) -> bool {
    let output = fs::read(results.join(name).join("output")).unwrap_or_default();
    String::from_utf8_lossy(&output).contains("Kernel panic - not syncing")
}

/// `passed`, or why not.
fn outcome(results: &Path, name: &str) -> String {
    let text = fs::read_to_string(results.join(name).join("outcome")).unwrap_or_default();
    match (text.trim(), results.join("claimed").join(name).exists()) {
        ("", true) => "its host stopped while it ran".to_owned(),
        ("", false) => "no host was left to run it".to_owned(),
        (outcome, _) => outcome.to_owned(),
    }
}

impl Options {
    fn folder(&self) -> PathBuf {
        paths::checkout().join(if self.soak { "e2e/soak" } else { "e2e/scenarios" })
    }

    fn results(&self) -> PathBuf {
        paths::target().join("e2e-results").join(self.flavour.name())
    }

    /// Builds what these scenarios name in a header line `# part: NAME`: the host finds what `e2e/host/NAME.sh` has
    /// made in `/job/NAME`.
    fn extras(&self, names: &[String]) -> anyhow::Result<BTreeMap<String, PathBuf>> {
        let mut extras = BTreeMap::new();
        for name in names {
            for part in header(&self.script(name)?, "part") {
                if !extras.contains_key(part) {
                    let folder = step(part, || paths::built_by(&format!("e2e/host/{part}.sh")))?;
                    extras.insert(part.to_owned(), folder);
                }
            }
        }
        Ok(extras)
    }

    fn script(&self, name: &str) -> anyhow::Result<String> {
        let path = self.folder().join(format!("{name}.sh"));
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Names of the scenarios that the filter wants and this flavour can run: a header line `# flavour: NAME` says
    /// which is needed. Those that may take longest come first, so that no host begins one when the others are done.
    fn matching(&self) -> anyhow::Result<Vec<String>> {
        let patterns = self.filter.split(',').map(Pattern::new).collect::<Result<Vec<_>, _>>();
        let patterns = patterns.with_context(|| format!("{} is no glob", self.filter))?;
        let folder = self.folder();
        let mut names = Vec::new();
        for entry in folder.read_dir().with_context(|| format!("no scenarios in {}", folder.display()))? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            if let Some(name) = file.strip_suffix(".sh")
                && patterns.iter().any(|pattern| pattern.matches(name))
            {
                let script = self.script(name)?;
                let limit = time_limit(&script);
                if header(&script, "flavour").all(|flavour| flavour == self.flavour.name())
                    && self.up_to.is_none_or(|longest| limit.unwrap_or(0) <= longest)
                {
                    names.push((Reverse(limit), name.to_owned()));
                }
            }
        }
        names.sort();
        Ok(names.into_iter().map(|(_, name)| name).collect())
    }
}

/// Waits for another run with the same results folder to end.
fn lock(results: &Path) -> anyhow::Result<File> {
    let path = results.with_extension("lock");
    fs::create_dir_all(path.parent().unwrap_or(&path))?;
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        println!("    waiting for another run to end");
        file.lock()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_in_the_header() {
        let script = "# Runs.\n# part: one\n# limit: 3\n# part: two\ntrue\n# part: three\n";
        assert_eq!(header(script, "part").collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(header(script, "flavour").count(), 0);
        assert_eq!(time_limit(script), Some(3));
        assert!(Reverse(time_limit(script)) < Reverse(None));
    }

    #[test]
    fn a_failure_ends_with_the_last_lines_that_say_something() {
        let lines = || (1..=LINES_OF_A_FAILURE).map(|number| format!("line {number}"));
        let output: String =
            (1..=5).map(|_| "before\n\n".to_owned()).chain(lines().map(|line| line + "\n\n")).collect();
        assert_eq!(last_lines(&output), lines().collect::<Vec<_>>());
        assert_eq!(last_lines("only"), ["only"]);
        assert!(last_lines("").is_empty());
    }

    #[test]
    fn a_guest_whose_kernel_died_is_told_from_other_failures() {
        let folder = tempfile::tempdir().unwrap();
        for (name, output) in
            [("died", &b"\xff[7.3] Kernel panic - not syncing: Fatal\n"[..]), ("failed", b"FAILED: 1\n")]
        {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("output"), output).unwrap();
        }
        assert_eq!(["died", "failed", "absent"].map(|name| has_panic(folder.path(), name)), [true, false, false]);
    }

    #[test]
    fn a_host_holds_what_it_took_and_did_not_finish() {
        let folder = tempfile::tempdir().unwrap();
        let results = folder.path();
        fs::create_dir(results.join("claimed")).unwrap();
        for (name, host) in [("done", "host-1.0\n"), ("open", "host-1.0\n"), ("elsewhere", "host-2.0\n")] {
            fs::write(results.join("claimed").join(name), host).unwrap();
            fs::create_dir(results.join(name)).unwrap();
        }
        fs::write(results.join("done/outcome"), "passed").unwrap();
        let names = ["done", "open", "elsewhere", "unclaimed"].map(str::to_owned);
        assert_eq!(held_by(results, &names, "host-1.0"), ["open"]);
    }
}
