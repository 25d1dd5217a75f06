//! What containers can leave behind on a host.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "supermachine"];
const RUN_FOLDERS: [&str; 4] =
    ["/run/supermachine", "/run/containerd/io.containerd.runtime.v2.task", "/run/containerd/s", "/run/containerd/fifo"];

/// Everything that exists at one moment and should not outlive a container, a
/// line for each: processes, mounts, files, containers, writable snapshots.
#[derive(Debug)]
pub(crate) struct Residue {
    found: BTreeSet<String>,
}

impl Residue {
    /// What there is now.
    pub(crate) fn take() -> anyhow::Result<Self> {
        let mut found = BTreeSet::new();
        add_processes(&mut found)?;
        add_mounts(&mut found)?;
        for folder in RUN_FOLDERS {
            add_files(&mut found, Path::new(folder), 0);
        }
        for container in ctr(&["containers", "list", "--quiet"])?.lines() {
            found.insert(format!("container {container}"));
        }
        for snapshotter in SNAPSHOTTERS {
            // A host without our snapshotter has no snapshots of it.
            let Ok(listing) = ctr(&["snapshots", "--snapshotter", snapshotter, "list"]) else { continue };
            found.extend(active_snapshots(&listing).map(|key| format!("snapshot {snapshotter}/{key}")));
        }
        Ok(Self { found })
    }

    /// Waits until there is nothing that wasn't there before; what is left of it
    /// at the deadline.
    pub(crate) fn wait_for_nothing_new(&self, limit: Duration) -> anyhow::Result<Vec<String>> {
        let deadline = Instant::now() + limit;
        loop {
            let new: Vec<String> = Self::take()?.found.difference(&self.found).cloned().collect();
            if new.is_empty() || Instant::now() >= deadline {
                return Ok(new);
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// Removes the containers and kills the processes that weren't there before,
    /// so that the next scenario starts clean. Best effort: its result is not
    /// what is tested.
    pub(crate) fn remove_what_is_new(&self) {
        let Ok(now) = Self::take() else { return };
        for line in now.found.difference(&self.found) {
            let mut words = line.split(' ');
            match (words.next(), words.next()) {
                (Some("container"), Some(id)) => {
                    drop(ctr(&["tasks", "delete", "--force", id]));
                    drop(ctr(&["containers", "delete", id]));
                }
                (Some("process"), Some(pid)) => drop(Command::new("kill").args(["-KILL", pid]).status()),
                _ => {}
            }
        }
    }
}

/// Shims and VMMs, but for the VMMs in which the daemon makes bakes.
fn add_processes(found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let Some(pid) = folder.file_name().and_then(|name| name.to_str()).filter(|name| name.parse::<u32>().is_ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(status) = fs::read_to_string(folder.join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let name = field("Name:");
        if !(name.starts_with("containerd-shim") || name.starts_with("supermachine-vm") || name == "runc") {
            continue;
        }
        let parent = fs::read_to_string(format!("/proc/{}/comm", field("PPid:"))).unwrap_or_default();
        if !parent.starts_with("supermachine-sn") {
            found.insert(format!("process {pid} ({name}, {})", field("State:")));
        }
    }
    Ok(())
}

fn add_mounts(found: &mut BTreeSet<String>) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let ours = points.filter(|point| RUN_FOLDERS.iter().any(|folder| point.starts_with(folder)));
    found.extend(ours.map(|point| format!("mount {point}")));
    Ok(())
}

/// Files of running containers. What the machine remembers (what was verified and
/// digested, which processor it has) and the daemon's bakes may grow, and so are
/// not looked into.
fn add_files(found: &mut BTreeSet<String>, folder: &Path, depth: u8) {
    const DEEPEST: u8 = 3;
    const MEMORIES: [&str; 6] = ["verified", "digests", "layers", "machine", "starts", "bake"];
    // Folders of folders, made with the first container and kept.
    const SHELVES: [&str; 4] = ["default", "moby", "export", "vm"];
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if MEMORIES.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if !SHELVES.iter().any(|name| entry.file_name() == *name) {
            found.insert(format!("file {}", entry.path().display()));
        }
        if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            add_files(found, &entry.path(), depth + 1);
        }
    }
}

fn ctr(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ctr").args(arguments).output().context("cannot run ctr")?;
    ensure!(output.status.success(), "ctr {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Keys of the snapshots in `ctr snapshots list` that are some container's
/// writable layer or an unfinished unpack.
fn active_snapshots(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter(|line| line.trim_end().ends_with("Active")).filter_map(|line| line.split_whitespace().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_layers_are_no_residue() {
        let listing = "KEY PARENT KIND\nsha256:1 \"\" Committed\nweb sha256:1 Active\n";
        assert_eq!(active_snapshots(listing).collect::<Vec<_>>(), ["web"]);
    }
}
