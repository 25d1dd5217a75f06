//! The product's binaries, guest kernel and initrd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;

use crate::paths;
use crate::step::step;

/// The monitor of virtual machines, and what it is built for.
const VMM: &str = "supermachine-vmm";
const VMM_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The command line, and its package: the library has the name already.
const CLI: &str = "supermachine";
const CLI_PACKAGE: &str = "supermachine-cli";

/// What is installed in `/opt/supermachine/bin`.
pub(crate) const PROGRAMS: [&str; 4] = ["containerd-shim-supermachine-v2", VMM, "supermachine-snapshotter", CLI];

/// The program that runs scenarios inside the host.
pub(crate) const RUNNER: &str = "scenario-runner";

/// Tests that scenarios run inside the host, for its KVM and its cgroups: name, package, target.
const TESTS: [(&str, &str, &str); 2] =
    [("vmm-tests", VMM, "kvm"), ("container-tests", "supermachine-agent", "containers")];

/// How the binaries are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// Quick to build.
    Debug,
    /// What is installed and measured.
    Release,
}

impl Profile {
    fn folder(self) -> PathBuf {
        paths::target().join(match self {
            Self::Debug => "debug",
            Self::Release => "release",
        })
    }
}

/// Files to give to a host; a part that nobody built is absent.
#[derive(Debug)]
pub(crate) struct Product {
    /// Programs, with symbols.
    pub(crate) programs: Vec<PathBuf>,
    /// `vmlinux` and `initrd.cpio`.
    pub(crate) shared: Vec<PathBuf>,
}

/// Builds the product.
pub(crate) fn build(profile: Profile) -> anyhow::Result<Product> {
    let kernel = step("guest kernel", || paths::built_by("kernel/build.sh"))?;
    let initrd = step("guest agent and initrd", || paths::built_by("guest-agent/initrd.sh"))?;
    step("product", || {
        let mut cargo = cargo_build(profile);
        for program in PROGRAMS.into_iter().filter(|program| *program != VMM).chain(["e2e"]) {
            cargo.args(["--package", if program == CLI { CLI_PACKAGE } else { program }]);
        }
        paths::run(&mut cargo)?;
        build_vmm(profile)
    })?;
    let programs = programs_in(&profile.folder());
    Ok(Product { programs, shared: vec![kernel, initrd] })
}

fn cargo_build(profile: Profile) -> Command {
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::checkout()).args(["build", "--quiet"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    cargo
}

/// Builds the VMM, without shared libraries: one is started with every VM, and loading two takes longer than restoring
/// a bake's devices. Its address stays random.
fn build_vmm(profile: Profile) -> anyhow::Result<()> {
    let mut cargo = cargo_build(profile);
    // A target is named so that the flags don't reach what runs while building.
    cargo.args(["--package", VMM, "--target", VMM_TARGET]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    paths::run(&mut cargo)?;
    let folder = profile.folder();
    let built = paths::target().join(VMM_TARGET).join(folder.file_name().context("a folder without a name")?).join(VMM);
    let target = folder.join(VMM);
    fs::copy(&built, &target).with_context(|| format!("cannot copy {} to {}", built.display(), target.display()))?;
    Ok(())
}

/// Builds the product in this profile with all that tests it, or takes what lies around.
pub(crate) fn obtain(profile: Option<Profile>) -> anyhow::Result<Product> {
    let Some(profile) = profile else { return latest() };
    step("tests that run in the host", || TESTS.iter().try_for_each(|test| build_tests(profile, test)))?;
    build(profile)
}

/// Builds tests and gives them a name without cargo's hash.
fn build_tests(profile: Profile, (name, package, target): &(&str, &str, &str)) -> anyhow::Result<()> {
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::checkout()).args(["test", "--quiet", "--package", package, "--test", target]);
    cargo.args(["--no-run", "--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "building {name}: {}", output.status);
    let built = executable(&output.stdout).context("cargo named no test program")?;
    let copy = profile.folder().join(name);
    fs::copy(&built, &copy).with_context(|| format!("cannot copy {built} to {}", copy.display()))?;
    Ok(())
}

/// The test program that cargo's messages, one JSON object a line, name.
fn executable(messages: &[u8]) -> Option<String> {
    let messages = messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let is_test = |message: &serde_json::Value| message["target"]["kind"][0] == "test";
    messages.filter(is_test).find_map(|message| Some(message["executable"].as_str()?.to_owned()))
}

/// The newest product that lies around, whole or not; builds nothing.
fn latest() -> anyhow::Result<Product> {
    let modified = |path: &Path| path.metadata().and_then(|facts| facts.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let age = |profile: &Profile| programs_in(&profile.folder()).iter().map(|path| modified(path)).max();
    // What `cargo test` leaves there has only some of them.
    let is_whole = |profile: &Profile| programs_in(&profile.folder()).len() == PROGRAMS.len() + 1 + TESTS.len();
    let profile = [Profile::Debug, Profile::Release].into_iter().filter(is_whole).max_by_key(age);
    let programs = profile.map(|profile| programs_in(&profile.folder())).unwrap_or_default();
    let cache = paths::cache()?;
    let mut parts = Vec::new();
    for entry in cache.read_dir().with_context(|| format!("no cache at {}", cache.display()))? {
        let folder = entry?.path();
        parts.extend(["vmlinux", "initrd.cpio"].map(|name| folder.join(name)).into_iter().filter(|path| path.exists()));
    }
    parts.sort_by_key(|path| modified(path));
    let shared = ["vmlinux", "initrd.cpio"]
        .iter()
        .filter_map(|name| parts.iter().rfind(|path| path.ends_with(name)).cloned())
        .collect();
    Ok(Product { programs, shared })
}

fn programs_in(folder: &Path) -> Vec<PathBuf> {
    let names = PROGRAMS.into_iter().chain([RUNNER]).chain(TESTS.map(|(name, ..)| name));
    names.map(|name| folder.join(name)).filter(|path| path.exists()).collect()
}

impl Product {
    /// A product without parts, for a host that needs none.
    pub(crate) fn none() -> Self {
        Self { programs: Vec::new(), shared: Vec::new() }
    }

    /// Copies the product, without debug symbols, into `bin` and `share`.
    pub(crate) fn stage(&self, bin: &Path, share: &Path) -> anyhow::Result<()> {
        for program in &self.programs {
            let name = program.file_name().context("a program without a name")?;
            paths::run(Command::new("strip").arg("--strip-debug").arg("-o").arg(bin.join(name)).arg(program))?;
        }
        for file in &self.shared {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(file, share.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Fails when a part is absent.
    pub(crate) fn require_whole(&self) -> anyhow::Result<()> {
        let is_built = |name: &&str| self.programs.iter().any(|program| program.ends_with(name));
        if self.shared.len() < 2 || !PROGRAMS.iter().all(is_built) {
            bail!("the product isn't built: run `cargo run -p xtask -- build`");
        }
        Ok(())
    }
}
