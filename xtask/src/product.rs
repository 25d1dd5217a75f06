//! The product's binaries, guest kernel and initrd.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::paths;
use crate::step::step;

/// What is installed in `/opt/supermachine/bin`.
pub(crate) const PROGRAMS: [&str; 3] =
    ["containerd-shim-supermachine-v2", "supermachine-vmm", "supermachine-snapshotter"];

/// The program that runs scenarios inside the host.
pub(crate) const RUNNER: &str = "scenario-runner";

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
        let mut cargo = Command::new(paths::cargo());
        cargo.current_dir(paths::checkout()).args(["build", "--quiet", "--package", "e2e"]);
        for program in PROGRAMS {
            cargo.args(["--package", program]);
        }
        if profile == Profile::Release {
            cargo.arg("--release");
        }
        paths::run(&mut cargo)
    })?;
    let programs = programs_in(&profile.folder());
    Ok(Product { programs, shared: vec![kernel, initrd] })
}

/// Builds the product in this profile, or takes what lies around.
pub(crate) fn obtain(profile: Option<Profile>) -> anyhow::Result<Product> {
    profile.map_or_else(latest, build)
}

/// The newest product that lies around, whole or not; builds nothing.
fn latest() -> anyhow::Result<Product> {
    let modified = |path: &Path| path.metadata().and_then(|facts| facts.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let age = |profile: &Profile| programs_in(&profile.folder()).iter().map(|path| modified(path)).max();
    let profile = [Profile::Debug, Profile::Release].into_iter().max_by_key(age);
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
    let names = PROGRAMS.iter().chain([&RUNNER]);
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
            std::fs::copy(file, share.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Fails when a part is absent.
    pub(crate) fn require_whole(&self) -> anyhow::Result<()> {
        if self.shared.len() < 2 || self.programs.len() < PROGRAMS.len() {
            bail!("the product isn't built: run `cargo run -p xtask -- build`");
        }
        Ok(())
    }
}
