//! The folder that an emulated host finds at `/job`: the product, the host's own
//! scripts, and what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::ValueEnum;
use tempfile::TempDir;

use crate::paths;
use crate::product::Product;

/// Which containerd a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    /// The pinned 2.x.
    #[value(name = "containerd-2")]
    Containerd2,
    /// Debian 13's own.
    #[value(name = "containerd-1.7")]
    Containerd17,
}

impl Flavour {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Containerd2 => "containerd-2",
            Self::Containerd17 => "containerd-1.7",
        }
    }
}

/// A job's folder; it is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Job {
    folder: TempDir,
}

impl Job {
    /// A folder with the product and the host's scripts, but nothing to do yet.
    pub(crate) fn new(flavour: Flavour, product: &Product) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("supermachine-host.").tempdir()?;
        let job = Self { folder };
        for name in ["bin", "share"] {
            fs::create_dir_all(job.path().join(name))?;
        }
        product.stage(&job.path().join("bin"), &job.path().join("share"))?;
        job.add_folder(&paths::checkout().join("e2e/host"), "host")?;
        let deploy = paths::checkout().join("deploy");
        if deploy.is_dir() {
            job.add_folder(&deploy, "deploy")?;
        }
        job.write("flavour", flavour.name())?;
        Ok(job)
    }

    /// What the host sees as `/job`.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("job")
    }

    /// A path for the launcher's own files (sockets, the console's log).
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a small file into the job's folder.
    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path().join(name);
        fs::write(&path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Adds a copy of a folder under a name of its own.
    pub(crate) fn add_folder(&self, folder: &Path, name: &str) -> anyhow::Result<()> {
        paths::run(Command::new("cp").arg("-r").arg(folder.join(".")).arg(self.path().join(name)))
    }

    /// Adds a file, by a hard link where that works.
    pub(crate) fn add(&self, file: &Path) -> anyhow::Result<()> {
        let name = file.file_name().context("a file without a name")?;
        let target = self.path().join(name);
        if fs::hard_link(file, &target).is_err() {
            fs::copy(file, &target).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// The job's exit status, once it has ended.
    pub(crate) fn status(&self) -> Option<u8> {
        fs::read_to_string(self.path().join("status")).ok()?.trim().parse().ok()
    }

    /// The last lines that the host's console printed.
    pub(crate) fn console_tail(&self) -> String {
        const LINES: usize = 40;
        let bytes = fs::read(self.outside("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
