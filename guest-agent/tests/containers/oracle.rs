//! `crun`, where it is installed, as the reference: the same spec must give the same process.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::trial::{Trial, shell, spec};

/// What is compared: identity, privileges, limits, mounts, devices, environment. Covers below `/proc` are left out:
/// there runtimes differ in flags that make no difference.
const SCRIPT: &str = "
    grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn|SigCgt)' /proc/self/status
    cat /proc/self/limits; cat /proc/self/oom_score_adj; pwd; hostname
    while read -r _ _ _ root target options rest; do echo \"$target $options ${rest#* - }\"; done </proc/self/mountinfo | sed 's/,size=[0-9]*k//g' | grep -v '^/proc/' | sort
    ls -ln /dev | while read -r mode links owner group a b c d e name; do echo \"$mode $owner $group $name\"; done
    ls /proc/self/fd | wc -l; cat /proc/self/cmdline | wc -c; env | sort";

/// Runs the same containers both ways.
pub(crate) async fn compare(trial: &Trial) -> Result<()> {
    if Command::new("crun").arg("--version").output().is_err() {
        println!("    (no crun here: nothing to compare with)");
        return Ok(());
    }
    for program in ["sed", "sort", "env"] {
        std::os::unix::fs::symlink("busybox", trial.folder.path().join("rootfs/bin").join(program)).ok();
    }
    for (name, spec) in variants() {
        let ours = trial.run("a", &spec).await?;
        let theirs = crun(trial, &spec)?;
        let (ours, theirs) = (lines(&ours.stdout), lines(&theirs));
        let only = |these: &[String], those: &[String]| {
            these.iter().filter(|line| !those.contains(line)).cloned().collect::<Vec<_>>()
        };
        let (extra, missing) = (only(&ours, &theirs), only(&theirs, &ours));
        ensure!(extra.is_empty() && missing.is_empty(), "{name}: only ours {extra:#?}, only crun's {missing:#?}");
    }
    Ok(())
}

fn variants() -> Vec<(&'static str, Value)> {
    let plain = spec(&shell(SCRIPT));
    let mut user = plain.clone();
    user["process"]["user"] = json!({"uid": 33, "gid": 33, "umask": 0o077, "additionalGids": [50]});
    user["process"]["noNewPrivileges"] = json!(false);
    user["process"]["capabilities"] =
        json!({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"]});
    user["root"]["readonly"] = json!(true);
    let mut variants = vec![("plain", plain), ("user", user)];
    for (_, spec) in &mut variants {
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["type"] != "cgroup");
        }
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
        }
    }
    variants
}

fn crun(trial: &Trial, spec: &Value) -> Result<String> {
    let bundle = tempfile::tempdir()?;
    let mut spec = spec.clone();
    spec["root"]["path"] = json!(trial.folder.path().join("rootfs"));
    spec["ociVersion"] = json!("1.0.2");
    std::fs::write(bundle.path().join("config.json"), spec.to_string())?;
    // It refuses to start where controllers are split between two hierarchies: in a mount namespace of its own it sees one.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun \"$@\"", "crun"]);
    command.arg("--root").arg(bundle.path().join("state")).args(["--cgroup-manager=disabled", "run", "--bundle"]);
    // With nothing as its input it would hand the container's own `/dev/null` to the user.
    let output = command.arg(bundle.path()).arg("oracle").stdin(Stdio::piped()).output().context("run crun")?;
    ensure!(output.status.success(), "crun: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim_end).map(str::to_owned).collect()
}
