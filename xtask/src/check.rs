//! `make check`: what a change must satisfy before it is tested.

mod arrows;
mod budgets;
mod policy;

use std::process::{Command, ExitCode};

use crate::paths;
use crate::step::step;

/// Runs every check, also after one has failed, and names those that did.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    type Check = (&'static str, fn() -> anyhow::Result<()>);
    let checks: [Check; 6] = [
        ("formatting", || cargo(&["fmt", "--all", "--check"], None)),
        ("arrows between crates", arrows::check),
        ("file and function budgets", budgets::check),
        ("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"], None)),
        ("documentation", || {
            cargo(&["doc", "--workspace", "--no-deps", "--quiet"], Some(("RUSTDOCFLAGS", "-D warnings")))
        }),
        ("dependency policy", policy::check),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = step(name, check) {
            eprintln!("    {error:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn cargo(arguments: &[&str], variable: Option<(&str, &str)>) -> anyhow::Result<()> {
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::checkout()).args(arguments).envs(variable);
    paths::run(&mut cargo)
}
