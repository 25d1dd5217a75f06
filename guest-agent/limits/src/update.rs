//! Changing the limits of a cgroup that is in use.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::{Limit, LimitError, limits, write};

/// Limits that were not changed. None of them was.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// One of them can't be set.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The caller asked that a memory limit below what is in use be refused.
    #[error("linux.resources.memory.limit: {limit} bytes, and the container uses {usage}")]
    InUse {
        /// What was asked for.
        limit: i64,
        /// What is in use.
        usage: i64,
    },
}

/// How a cgroup's limits were before they were changed.
#[derive(Debug, Default)]
#[must_use = "without it the change can't be taken back"]
pub struct Before {
    /// What to write to which file, the last change first.
    values: VecDeque<(PathBuf, String)>,
}

impl Before {
    /// Takes the change back.
    pub fn restore(self) {
        for (file, value) in self.values {
            // What the kernel had a moment ago it takes again, unless the cgroup is gone.
            drop(write(&file, &value));
        }
    }
}

/// Changes the limits that `resources` names, all of them or none.
pub fn update(cgroup: &Path, resources: &LinuxResources) -> Result<Before, UpdateError> {
    let mut resources = resources.clone();
    if let Some(cpu) = resources.cpu_mut() {
        complete_cpu(cpu, cgroup);
    }
    if let Some(memory) = resources.memory_mut() {
        check_usage(memory, cgroup)?;
        complete_memory(memory, cgroup);
    }
    let limits = limits(&resources)?;
    let mut before = Before::default();
    for limit in &limits {
        let values = present(limit, cgroup);
        if let Err(error) = limit.set(cgroup) {
            before.restore();
            return Err(error.into());
        }
        for value in values {
            before.values.push_front((cgroup.join(&limit.file), value));
        }
    }
    Ok(before)
}

/// Quota and period share a file: the one that isn't named stays.
fn complete_cpu(cpu: &mut LinuxCpu, cgroup: &Path) {
    let named = |value: Option<u64>| value.is_some_and(|value| value != 0);
    let (quota, period) = (cpu.quota().is_some_and(|quota| quota != 0), named(cpu.period()));
    if quota == period {
        return;
    }
    let current = read(cgroup, "cpu.max");
    let (current_quota, current_period) = current.trim().split_once(' ').unwrap_or_default();
    if !quota {
        // "max" is no number, and no quota.
        cpu.set_quota(Some(current_quota.parse().unwrap_or(-1)));
    } else if let Ok(current) = current_period.parse() {
        cpu.set_period(Some(current));
    }
}

/// Swap is given together with memory: without a new limit of memory, the present one counts.
fn complete_memory(memory: &mut LinuxMemory, cgroup: &Path) {
    if memory.swap().unwrap_or(0) != 0 && memory.limit().unwrap_or(0) == 0 {
        memory.set_limit(read(cgroup, "memory.max").trim().parse().ok());
    }
}

fn check_usage(memory: &LinuxMemory, cgroup: &Path) -> Result<(), UpdateError> {
    let limit = memory.limit().filter(|limit| *limit > 0 && memory.check_before_update() == Some(true));
    match (limit, read(cgroup, "memory.current").trim().parse()) {
        (Some(limit), Ok(usage)) if limit < usage => Err(UpdateError::InUse { limit, usage }),
        _ => Ok(()),
    }
}

/// What to write to a limit's file to have the present state again.
fn present(limit: &Limit, cgroup: &Path) -> Vec<String> {
    let text = read(cgroup, &limit.file);
    // With the line's end: an empty one is a value too.
    let lines = || text.lines().map(|line| format!("{line}\n"));
    if limit.file == "io.max" {
        // One line for each device that has a limit.
        let device = limit.value.split(' ').next().unwrap_or_default();
        let line = lines().find(|line| line.split(' ').next() == Some(device));
        vec![line.unwrap_or_else(|| format!("{device} rbps=max wbps=max riops=max wiops=max"))]
    } else {
        lines().collect()
    }
}

/// A control file's content; empty if there is none.
fn read(cgroup: &Path, file: &str) -> String {
    fs::read_to_string(cgroup.join(file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cgroup(files: &[(&str, &str)]) -> tempfile::TempDir {
        let cgroup = tempfile::tempdir().unwrap();
        for (file, content) in files {
            fs::write(cgroup.path().join(file), content).unwrap();
        }
        cgroup
    }

    fn change(cgroup: &tempfile::TempDir, resources: serde_json::Value) -> Result<Before, UpdateError> {
        update(cgroup.path(), &serde_json::from_value(resources).unwrap())
    }

    fn content(cgroup: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(cgroup.path().join(file)).unwrap()
    }

    #[test]
    fn quota_and_period_change_apart() {
        let cgroup = cgroup(&[("cpu.max", "max 100000\n")]);
        let _ = change(&cgroup, json!({"cpu": {"period": 50000}})).unwrap();
        assert_eq!(content(&cgroup, "cpu.max"), "max 50000");
        let _ = change(&cgroup, json!({"cpu": {"quota": 20000}})).unwrap();
        assert_eq!(content(&cgroup, "cpu.max"), "20000 50000");
        let _ = change(&cgroup, json!({"cpu": {"period": 80000, "quota": 0}})).unwrap();
        assert_eq!(content(&cgroup, "cpu.max"), "20000 80000");
        let _ = change(&cgroup, json!({"cpu": {"quota": -1}})).unwrap();
        assert_eq!(content(&cgroup, "cpu.max"), "max 80000");
    }

    #[test]
    fn swap_counts_with_the_present_limit() {
        let cgroup = cgroup(&[("memory.max", "100\n"), ("memory.swap.max", "max\n")]);
        let _ = change(&cgroup, json!({"memory": {"swap": 150}})).unwrap();
        assert_eq!((content(&cgroup, "memory.max"), content(&cgroup, "memory.swap.max")), ("100".into(), "50".into()));
        let _ = change(&cgroup, json!({"memory": {"limit": 120}})).unwrap();
        assert_eq!((content(&cgroup, "memory.max"), content(&cgroup, "memory.swap.max")), ("120".into(), "50".into()));
    }

    #[test]
    fn a_change_can_be_taken_back() {
        let cgroup = cgroup(&[("cpu.weight", "100\n"), ("cpuset.cpus", "\n")]);
        let before = change(&cgroup, json!({"cpu": {"shares": 2, "cpus": "0"}})).unwrap();
        assert_eq!((content(&cgroup, "cpu.weight"), content(&cgroup, "cpuset.cpus")), ("1".into(), "0".into()));
        before.restore();
        assert_eq!((content(&cgroup, "cpu.weight"), content(&cgroup, "cpuset.cpus")), ("100\n".into(), "\n".into()));
    }

    #[test]
    fn a_limit_below_the_usage_is_refused_only_on_request() {
        let cgroup = cgroup(&[("memory.max", "max\n"), ("memory.current", "200\n")]);
        let error = change(&cgroup, json!({"memory": {"limit": 100, "checkBeforeUpdate": true}})).unwrap_err();
        assert!(matches!(error, UpdateError::InUse { limit: 100, usage: 200 }), "{error}");
        assert_eq!(content(&cgroup, "memory.max"), "max\n");
        let _ = change(&cgroup, json!({"memory": {"limit": 100}})).unwrap();
        assert_eq!(content(&cgroup, "memory.max"), "100");
    }

    #[test]
    fn what_was_changed_before_a_refusal_is_put_back() {
        let files =
            [("memory.max", "max\n"), ("cpuset.cpus", "\n"), ("io.max", "8:16 rbps=9 wbps=max riops=max wiops=max\n")];
        let cgroup = cgroup(&files);
        let throttled = json!({
            "memory": {"limit": 100}, "cpu": {"cpus": "0"},
            "blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
            "unified": {"no.such": "1"}
        });
        let error = change(&cgroup, throttled).unwrap_err();
        let UpdateError::Limit(LimitError::Refused { field, file, .. }) = error else { panic!("{error}") };
        assert_eq!((field.as_str(), file.as_str()), ("linux.resources.unified", "no.such"));
        assert_eq!((content(&cgroup, "memory.max"), content(&cgroup, "cpuset.cpus")), ("max\n".into(), "\n".into()));
        assert_eq!(content(&cgroup, "io.max"), "8:0 rbps=max wbps=max riops=max wiops=max");
        assert!(!cgroup.path().join("no.such").exists());
    }
}
