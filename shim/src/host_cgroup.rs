//! The host's cgroup of a container: its VMM runs there, so that the host accounts for it where it looks for it.
//!
//! What a container may use for itself is the guest's to limit, in a cgroup of the guest. Here is what concerns others
//! of the host: its share of processors and disks, and which of them.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use cgroup_limits::{Before, LimitError, UpdateError, limits, update};
use oci_spec::runtime::{LinuxResources, Spec};
use thiserror::Error;

const ROOT: &str = "/sys/fs/cgroup";
/// What hosts account for. Enabled on the way to a new cgroup, as runc does.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// What a VMM needs beside its guest's memory, and room: `docs/performance.md` has what was measured.
const VMM_OVERHEAD_BYTES: u64 = 64 << 20;
/// Page tables of 8 bytes for each 4 KiB, the VMM's and KVM's: at most this part of the memory.
const PAGE_TABLE_SHARE: u64 = 256;

/// How long killed processes may take to be gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(1);
const EMPTY_POLL: Duration = Duration::from_millis(5);

/// Limits that the host can't set.
#[derive(Debug, Error)]
pub(crate) enum HostLimitError {
    /// One of them is none.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The kernel refused one.
    #[error("on the host")]
    Update(#[from] UpdateError),
    /// There is no cgroup to set it for.
    #[error("{field} needs a cgroup of the host: name one in `linux.cgroupsPath`, on a host with cgroup version 2")]
    NoCgroup {
        /// The spec's field.
        field: String,
    },
}

/// Sets limits for the VMM. Without a cgroup of its own it has the share that its parent has, whatever weight was asked
/// for; anything else is refused then.
pub(crate) fn limit(cgroup: Option<&HostCgroup>, resources: &LinuxResources) -> Result<Before, HostLimitError> {
    if let Some(cgroup) = cgroup {
        return Ok(update(cgroup.path(), resources)?);
    }
    let is_weight = |file: &str| matches!(file, "cpu.weight" | "cpu.idle" | "io.weight");
    match limits(resources)?.into_iter().find(|limit| !is_weight(&limit.file)) {
        Some(limit) => Err(HostLimitError::NoCgroup { field: limit.field }),
        None => Ok(Before::default()),
    }
}

/// A cgroup (version 2) of the host. It need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostCgroup {
    root: PathBuf,
    path: PathBuf,
}

impl HostCgroup {
    /// The one that a specification names. None if it names none, or if the host has no cgroups of version 2.
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        Self::below(Path::new(ROOT), spec.linux().as_ref()?.cgroups_path().as_ref()?.to_str()?)
    }

    fn below(root: &Path, name: &str) -> Option<Self> {
        let relative = match name.split(':').collect::<Vec<_>>()[..] {
            [slice, prefix, name] => unit(slice, prefix, name),
            _ => PathBuf::from(name),
        };
        Self::inside(root, &relative)
    }

    fn inside(root: &Path, relative: &Path) -> Option<Self> {
        // Only names: nothing outside the root, and not the root itself.
        let path: PathBuf = relative.components().filter(|part| *part != Component::RootDir).collect();
        let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
        let is_there = root.join("cgroup.controllers").exists();
        (is_below && path.file_name().is_some() && is_there)
            .then(|| Self { root: root.to_owned(), path: root.join(path) })
    }

    /// The one with this directory. None if that can't be a cgroup's, or on a host that has none.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        Self::inside(Path::new(ROOT), path.strip_prefix(ROOT).ok()?)
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it, with those above it.
    pub(crate) fn create(&self) -> io::Result<()> {
        let Ok(names) = self.path.strip_prefix(&self.root) else { return Ok(()) };
        let mut parent = self.root.clone();
        for name in names.components() {
            enable_controllers(&parent);
            let path = parent.join(name);
            match fs::create_dir(&path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => parent = path,
            }
        }
        Ok(())
    }

    /// Bounds what a VMM whose guest has `ram_bytes` of memory holds. A host that doesn't count memory bounds nothing.
    pub(crate) fn bound_memory(&self, ram_bytes: u64) -> io::Result<()> {
        let bound = ram_bytes.saturating_add(VMM_OVERHEAD_BYTES).saturating_add(ram_bytes / PAGE_TABLE_SHARE);
        match fs::OpenOptions::new().write(true).open(self.path.join("memory.max")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            opened => opened?.write_all(bound.to_string().as_bytes()),
        }
    }

    /// Removes it, but not those above it. One that is gone is as good. A VMM that is still in it has been told to end
    /// and may not have got to it: it is killed, and waited for.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    fs::write(self.path.join("cgroup.kill"), "1")?;
                    std::thread::sleep(EMPTY_POLL);
                }
                result => return result,
            }
        }
    }
}

/// Where systemd has the scope `prefix-name.scope` of a slice: `a-b.slice` is below `a.slice`.
fn unit(slice: &str, prefix: &str, name: &str) -> PathBuf {
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let mut path = PathBuf::new();
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    // The root's own name is "-".
    if stem != "-" {
        for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
            path.push(format!("{}.slice", &stem[..end]));
        }
    }
    path.push(match prefix {
        _ if name.ends_with(".slice") => name.to_owned(),
        "" => format!("{name}.scope"),
        prefix => format!("{prefix}-{name}.scope"),
    });
    path
}

/// Best effort: a cgroup that holds processes can't give controllers to those below it, and is used without.
fn enable_controllers(cgroup: &Path) {
    let read = |file| fs::read_to_string(cgroup.join(file)).unwrap_or_default();
    let (there, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let has = |list: &str, controller: &str| list.split_whitespace().any(|word| word == controller);
    for controller in CONTROLLERS {
        if has(&there, controller) && !has(&enabled, controller) {
            drop(fs::write(cgroup.join("cgroup.subtree_control"), format!("+{controller}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory\n").unwrap();
        root
    }

    #[test]
    fn names_lead_below_the_root() {
        let root = root();
        for (name, path) in [
            ("/default/c1", Some("default/c1")),
            ("relative/c1", Some("relative/c1")),
            ("system.slice:nerdctl:c1", Some("system.slice/nerdctl-c1.scope")),
            (":cri-containerd:c1", Some("system.slice/cri-containerd-c1.scope")),
            ("kubepods-burstable-pod1.slice:cri-containerd:c1", {
                Some("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c1.scope")
            }),
            ("-.slice::c1", Some("c1.scope")),
            ("/", None),
            ("", None),
            ("/a/../../etc", None),
            ("a:..:..", Some("a.slice/..-...scope")),
        ] {
            let cgroup = HostCgroup::below(root.path(), name);
            assert_eq!(cgroup.map(|cgroup| cgroup.path), path.map(|path| root.path().join(path)), "{name}");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(HostCgroup::below(elsewhere.path(), "/default/c1"), None);
    }

    #[test]
    fn limits_need_a_cgroup_and_weights_do_not() {
        let resources = |json| serde_json::from_value::<LinuxResources>(json).unwrap();
        let weights = resources(serde_json::json!({"cpu": {"shares": 2}, "blockIO": {"weight": 10}}));
        drop(limit(None, &weights).unwrap());
        let pinned = resources(serde_json::json!({"cpu": {"shares": 2, "cpus": "0"}}));
        let error = limit(None, &pinned).unwrap_err().to_string();
        assert!(error.starts_with("linux.resources.cpu.cpus needs a cgroup"), "{error}");

        let root = root();
        let cgroup = HostCgroup::below(root.path(), "/default/c1").unwrap();
        cgroup.create().unwrap();
        for file in ["cpu.weight", "cpuset.cpus"] {
            fs::write(cgroup.path().join(file), "\n").unwrap();
        }
        drop(limit(Some(&cgroup), &pinned).unwrap());
        let read = |file| fs::read_to_string(cgroup.path().join(file)).unwrap();
        assert_eq!((read("cpu.weight"), read("cpuset.cpus")), ("1".to_owned(), "0".to_owned()));
    }

    #[test]
    fn memory_is_bounded_where_it_is_counted() {
        let root = root();
        let cgroup = HostCgroup::below(root.path(), "/default/c1").unwrap();
        cgroup.create().unwrap();
        cgroup.bound_memory(1 << 30).unwrap();
        let file = cgroup.path().join("memory.max");
        assert!(!file.exists());
        fs::write(&file, "").unwrap();
        cgroup.bound_memory(1 << 30).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), ((1024 + 64 + 4) << 20).to_string());
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn made_with_controllers_and_removed_alone() {
        let root = root();
        fs::write(root.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        let cgroup = HostCgroup::below(root.path(), "/default/c1").unwrap();
        cgroup.create().unwrap();
        assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+io");
        cgroup.create().unwrap();
        assert!(cgroup.path().is_dir());
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        assert!(root.path().join("default").is_dir() && !cgroup.path().exists());
    }
}
