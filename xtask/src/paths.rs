//! Where things are: the checkout, the cache, the scripts that build the parts.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

/// The root of the checkout.
pub(crate) fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The folder in which the big parts are kept, named by their content.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("SUPERMACHINE_CACHE") {
        return Ok(folder);
    }
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("supermachine"))
        .context("no cache folder: set SUPERMACHINE_CACHE or HOME")
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// The cargo that runs this, or the one on the path.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Runs a part's build script and returns the path that it prints.
pub(crate) fn built_by(script: &str) -> anyhow::Result<PathBuf> {
    let script = checkout().join(script);
    let output = Command::new(&script)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(output.status.success(), "{} failed", script.display());
    let text = String::from_utf8(output.stdout).context("a path that isn't UTF-8")?;
    let path = PathBuf::from(text.trim_end());
    if !path.exists() {
        bail!("{} printed {}, which doesn't exist", script.display(), path.display());
    }
    Ok(path)
}

/// Runs a program with inherited output and fails when it does.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(status.success(), "{} {}", command.get_program().display(), status);
    Ok(())
}
