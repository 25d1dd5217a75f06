//! Licences, sources and versions of what we depend on, by cargo-deny.

use std::process::Command;

use crate::paths;

/// The version whose verdicts `deny.toml` is written for.
const VERSION: &str = "0.20.2";

/// Checks `deny.toml`. Advisories are left out: their database is fetched from
/// a place that a build machine may not reach.
pub(super) fn check() -> anyhow::Result<()> {
    let root = paths::cache()?.join(format!("cargo-deny-{VERSION}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        println!("    installing cargo-deny {VERSION} (once, some minutes)");
        let mut install = Command::new(paths::cargo());
        install.args(["install", "--quiet", "--locked", "--version", VERSION, "--no-default-features"]);
        paths::run(install.arg("--root").arg(&root).arg("cargo-deny"))?;
    }
    let mut deny = Command::new(program);
    deny.current_dir(paths::checkout()).args([
        "--offline",
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    paths::run(&mut deny)
}
