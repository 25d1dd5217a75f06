//! Dependencies between our crates go one way, and only where this table says.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::paths;

/// Each crate and which of ours it may use.
const ALLOWED: [(&str, &[&str]); 16] = [
    ("agent-proto", &[]),
    ("bake", &[]),
    ("cgroup-limits", &[]),
    ("containerd-shim-supermachine-v2", &["agent-proto", "cgroup-limits", "supermachine", "supermachine-config"]),
    ("devices", &[]),
    ("e2e", &[]),
    ("loop-device", &[]),
    ("mount-tree", &[]),
    ("supermachine", &["agent-proto", "bake", "mount-tree", "supermachine-config", "vmm-api"]),
    ("supermachine-agent", &["agent-proto", "cgroup-limits", "mount-tree"]),
    ("supermachine-cli", &["supermachine", "supermachine-config"]),
    ("supermachine-config", &[]),
    ("supermachine-snapshotter", &["supermachine", "supermachine-config"]),
    ("supermachine-vmm", &["bake", "devices", "vmm-api"]),
    ("vmm-api", &[]),
    ("xtask", &[]),
];

/// Fails when a crate uses another of ours that the table doesn't grant it.
pub(super) fn check() -> anyhow::Result<()> {
    let output = Command::new(paths::cargo())
        .current_dir(paths::checkout())
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let wrong = wrong_arrows(&serde_json::from_slice(&output.stdout)?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(())
}

fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let used = uses(metadata);
    let ours: BTreeSet<&str> = used.keys().copied().collect();
    let mut wrong = Vec::new();
    for (name, dependencies) in &used {
        let Some((_, allowed)) = ALLOWED.iter().find(|(listed, _)| listed == name) else {
            wrong.push(format!("{name} isn't in the table of arrows"));
            continue;
        };
        let forbidden = dependencies.intersection(&ours).filter(|used| !allowed.contains(used));
        wrong.extend(forbidden.map(|used| format!("{name} must not use {used}")));
    }
    wrong
}

/// Each workspace crate with the names of what it depends on, tests excluded.
fn uses(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    array(&metadata["packages"])
        .filter_map(|package| {
            let normal = array(&package["dependencies"]).filter(|dependency| dependency["kind"] != "dev");
            Some((package["name"].as_str()?, normal.filter_map(|dependency| dependency["name"].as_str()).collect()))
        })
        .collect()
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependency: &str, kind: Option<&str>) -> Value {
        json!({ "packages": [
            { "name": name, "dependencies": [{ "name": dependency, "kind": kind }] },
            { "name": dependency, "dependencies": [] },
        ]})
    }

    #[test]
    fn a_granted_arrow_passes() {
        assert_eq!(wrong_arrows(&package("supermachine", "bake", None)), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_table_is_named() {
        assert_eq!(wrong_arrows(&package("bake", "supermachine", None)), ["bake must not use supermachine"]);
    }

    #[test]
    fn a_test_dependency_is_no_arrow() {
        assert_eq!(wrong_arrows(&package("bake", "vmm-api", Some("dev"))), Vec::<String>::new());
    }

    #[test]
    fn an_unlisted_crate_is_named() {
        assert_eq!(wrong_arrows(&package("newcomer", "libc", None)).len(), 2);
    }
}
