//! The spec's resources are written for cgroup v1; this is where they become settings of version 2.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use crate::{Limit, LimitError};

/// Every setting that `resources` asks for. Fields that cgroup v2 has no setting for (kernel memory, swappiness,
/// the OOM killer's switch, network classes) are passed over, as other runtimes do.
pub fn limits(resources: &LinuxResources) -> Result<Vec<Limit>, LimitError> {
    let mut limits = Limits::default();
    if let Some(memory) = resources.memory() {
        limits.memory(memory);
    }
    if let Some(cpu) = resources.cpu() {
        limits.cpu(cpu);
    }
    if let Some(pids) = resources.pids().as_ref().filter(|pids| pids.limit() != 0) {
        limits.add("pids.limit", "pids.max", amount(pids.limit()));
    }
    if let Some(io) = resources.block_io() {
        limits.io(io);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        // What is used, and what is reserved to be used.
        for file in ["max", "rsvd.max"] {
            limits.add("hugepageLimits", &format!("hugetlb.{}.{file}", limit.page_size()), amount(limit.limit()));
        }
    }
    // Written last: the spec gives these precedence.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        limits.add("unified", file, value.clone());
    }
    match limits.list.iter().find(|limit| !is_limit(&limit.file)) {
        Some(Limit { field, file, .. }) => Err(LimitError::NoLimit { field: field.clone(), file: file.clone() }),
        None => Ok(limits.list),
    }
}

/// Whether a file is one of the cgroup's own that limits something: not `cgroup.kill`, `cgroup.procs` and the like.
fn is_limit(file: &str) -> bool {
    let acts = file.starts_with("cgroup.") && !file.starts_with("cgroup.max.");
    !file.is_empty() && !file.contains('/') && !acts
}

#[derive(Default)]
struct Limits {
    list: Vec<Limit>,
}

impl Limits {
    fn add(&mut self, field: &str, file: &str, value: String) {
        self.list.push(Limit { field: format!("linux.resources.{field}"), file: file.to_owned(), value });
    }

    fn memory(&mut self, memory: &LinuxMemory) {
        if let Some(limit) = memory.limit().filter(|limit| *limit != 0) {
            self.add("memory.limit", "memory.max", amount(limit));
        }
        if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
            self.add("memory.reservation", "memory.low", amount(reservation));
        }
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            // The spec's value counts memory and swap together; the kernel's counts swap.
            let value = if swap < 0 { swap } else { swap.saturating_sub(memory.limit().unwrap_or(0).max(0)).max(0) };
            self.add("memory.swap", "memory.swap.max", amount(value));
        } else if memory.limit() == Some(-1) {
            // Version 1 had one limit for both, so that lifting it lifted both.
            self.add("memory.limit", "memory.swap.max", amount(-1));
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
            self.add("cpu.shares", "cpu.weight", weight(shares).to_string());
        }
        if cpu.quota().is_some() || cpu.period().is_some() {
            let quota = amount(cpu.quota().filter(|quota| *quota > 0).unwrap_or(-1));
            let period = cpu.period().filter(|period| *period > 0).unwrap_or(100_000);
            self.add("cpu.quota", "cpu.max", format!("{quota} {period}"));
        }
        if let Some(burst) = cpu.burst() {
            self.add("cpu.burst", "cpu.max.burst", burst.to_string());
        }
        if let Some(idle) = cpu.idle() {
            self.add("cpu.idle", "cpu.idle", idle.to_string());
        }
        if let Some(cpus) = cpu.cpus().as_deref().filter(|cpus| !cpus.is_empty()) {
            self.add("cpu.cpus", "cpuset.cpus", cpus.to_owned());
        }
        if let Some(mems) = cpu.mems().as_deref().filter(|mems| !mems.is_empty()) {
            self.add("cpu.mems", "cpuset.mems", mems.to_owned());
        }
    }

    fn io(&mut self, io: &LinuxBlockIo) {
        if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
            self.add("blockIO.weight", "io.weight", format!("default {}", io_weight(weight)));
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                let value = format!("{}:{} {}", device.major(), device.minor(), io_weight(weight));
                self.add("blockIO.weightDevice", "io.weight", value);
            }
        }
        self.throttle("blockIO.throttleReadBpsDevice", "rbps", io.throttle_read_bps_device().as_deref());
        self.throttle("blockIO.throttleWriteBpsDevice", "wbps", io.throttle_write_bps_device().as_deref());
        self.throttle("blockIO.throttleReadIOPSDevice", "riops", io.throttle_read_iops_device().as_deref());
        self.throttle("blockIO.throttleWriteIOPSDevice", "wiops", io.throttle_write_iops_device().as_deref());
    }

    fn throttle(&mut self, field: &str, key: &str, devices: Option<&[LinuxThrottleDevice]>) {
        for device in devices.into_iter().flatten() {
            self.add(field, "io.max", format!("{}:{} {key}={}", device.major(), device.minor(), device.rate()));
        }
    }
}

/// A number, or `max` for "no limit".
fn amount(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// CPU shares (2..=262144, default 1024) as a weight (1..=10000, default 100), linearly.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A weight for block devices: 10..=1000 of the old scale onto 1..=10000 of the new one.
fn io_weight(weight: u16) -> u32 {
    1 + (u32::from(weight).clamp(10, 1000) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(resources: serde_json::Value) -> Vec<(String, String)> {
        let resources: LinuxResources = serde_json::from_value(resources).unwrap();
        limits(&resources).unwrap().into_iter().map(|limit| (limit.file, limit.value)).collect()
    }

    fn expect(resources: serde_json::Value, expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect();
        assert_eq!(settings(resources), expected);
    }

    #[test]
    fn memory_and_swap() {
        expect(
            json!({"memory": {"limit": 100, "swap": 100, "reservation": 50}}),
            &[("memory.max", "100"), ("memory.low", "50"), ("memory.swap.max", "0")],
        );
        expect(json!({"memory": {"limit": 100, "swap": 150}}), &[("memory.max", "100"), ("memory.swap.max", "50")]);
        for unlimited in [json!({"limit": -1, "swap": -1}), json!({"limit": -1})] {
            expect(json!({"memory": unlimited}), &[("memory.max", "max"), ("memory.swap.max", "max")]);
        }
    }

    #[test]
    fn processors() {
        expect(
            json!({"cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1", "mems": ""}}),
            &[("cpu.weight", "39"), ("cpu.max", "50000 100000"), ("cpuset.cpus", "0-1")],
        );
        expect(json!({"cpu": {"shares": 2, "quota": -1}}), &[("cpu.weight", "1"), ("cpu.max", "max 100000")]);
        assert_eq!(weight(262_144), 10_000);
    }

    #[test]
    fn the_rest() {
        expect(json!({"pids": {"limit": 0}}), &[]);
        expect(
            json!({"pids": {"limit": -1}, "unified": {"memory.high": "5"},
                "blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
                    "throttleReadBpsDevice": [{"major": 254, "minor": 16, "rate": 9}]}}),
            &[
                ("pids.max", "max"),
                ("io.weight", "default 10000"),
                ("io.weight", "8:0 1"),
                ("io.max", "254:16 rbps=9"),
                ("memory.high", "5"),
            ],
        );
    }

    #[test]
    fn unified_names_limits_only() {
        for file in ["cgroup.kill", "cgroup.freeze", "../memory.max", ""] {
            let resources: LinuxResources = serde_json::from_value(json!({"unified": {file: "1"}})).unwrap();
            assert!(matches!(limits(&resources), Err(LimitError::NoLimit { .. })), "{file}");
        }
        expect(json!({"unified": {"cgroup.max.depth": "1"}}), &[("cgroup.max.depth", "1")]);
    }
}
