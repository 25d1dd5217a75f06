//! The evidence of a failed scenario: what every part of the host logged.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// A moment, as journalctl takes it.
pub(crate) fn now() -> anyhow::Result<String> {
    let output = Command::new("date").arg("+@%s").output().context("cannot run date")?;
    ensure!(output.status.success(), "date failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Copies what was logged since then into the results: the journals of containerd
/// (which has the shim's output) and of the snapshotter, the host kernel's
/// messages, the process list, and each VM's own logs (VMM and guest console).
///
/// What cannot be collected is left out: the scenario has failed already, and its
/// own reason counts.
pub(crate) fn collect(since: &str, results: &Path) {
    for unit in ["containerd", "supermachine-snapshotter"] {
        save(
            results,
            unit,
            Command::new("journalctl").args(["--no-pager", "--output=cat", "--since", since, "--unit", unit]),
        );
    }
    save(results, "kernel", Command::new("journalctl").args(["--no-pager", "--dmesg", "--since", since]));
    save(results, "processes", Command::new("ps").args(["-ef", "--forest"]));
    let Ok(machines) = fs::read_dir("/run/supermachine/vm") else { return };
    for machine in machines.flatten() {
        let target = results.join(machine.file_name());
        let Ok(files) = fs::read_dir(machine.path()) else { continue };
        drop(fs::create_dir_all(&target));
        for file in files.flatten().filter(|file| file.file_type().is_ok_and(|kind| kind.is_file())) {
            drop(fs::copy(file.path(), target.join(file.file_name())));
        }
    }
}

fn save(results: &Path, name: &str, command: &mut Command) {
    if let Ok(file) = File::create(results.join(format!("{name}.log"))) {
        drop(command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(file).status());
    }
}
