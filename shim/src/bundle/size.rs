//! How large a machine a container needs.

use std::collections::HashMap;
use std::str::FromStr;

use oci_spec::runtime::Spec;
use supermachine_config::{Bytes, Config, ConfigError, MAX_MEMORY, MAX_VCPUS, MEMORY_STEP};

use super::Bundle;

/// What a guest needs beside its containers: kernel, agent, what is not to be reclaimed at once.
const GUEST_BYTES: u64 = 64 << 20;
/// The share of memory that the guest's kernel needs to keep account of it: 64 bytes for each page of 4096.
const ACCOUNT_SHARE: u64 = 64;

/// Set by containerd's CRI plugin on a pod's first container: the sums of its containers' limits.
const POD_MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const POD_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const POD_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// What the limits of a container, or of its pod, let it use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Memory in bytes; 0 for no limit.
    memory_bytes: u64,
    /// Processors, the last one perhaps in part; 0 for no limit.
    cpus: u64,
}

impl Bundle {
    /// What the container needs as far as it is limited: a limit is a promise that so much can be had.
    pub(crate) fn need(&self) -> Need {
        let (of_container, of_pod) = (of_container(&self.spec), of_pod(self.spec.annotations().as_ref()));
        Need {
            memory_bytes: of_container.memory_bytes.max(of_pod.memory_bytes),
            cpus: of_container.cpus.max(of_pod.cpus),
        }
    }
}

impl Need {
    /// The configuration with a machine that is as large as that takes, and no larger than a host with so much memory and
    /// so many processors. What is configured is the least.
    pub(crate) fn size(self, config: Config, host_bytes: u64, host_cpus: u64) -> Result<Config, ConfigError> {
        let configured = (config.vm.memory, config.vm.vcpus);
        let wanted = match self.memory_bytes {
            0 => 0,
            limit => limit
                .saturating_add(GUEST_BYTES)
                .saturating_add(limit / ACCOUNT_SHARE)
                .min(host_bytes)
                .min(MAX_MEMORY.0),
        };
        let memory = Bytes(wanted / MEMORY_STEP * MEMORY_STEP).max(configured.0);
        let cpus = self.cpus.min(host_cpus).min(MAX_VCPUS.into());
        let vcpus = u8::try_from(cpus).unwrap_or(configured.1).max(configured.1);
        config.with_shape(memory, vcpus, "the container's limits")
    }
}

fn of_container(spec: &Spec) -> Need {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limit = resources.and_then(|resources| resources.memory().as_ref()?.limit());
    let cpu = resources.and_then(|resources| resources.cpu().as_ref());
    Need {
        memory_bytes: limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0),
        cpus: cpu.map_or(0, |cpu| cpus(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0))),
    }
}

fn of_pod(annotations: Option<&HashMap<String, String>>) -> Need {
    fn read<T: FromStr + Default>(annotations: Option<&HashMap<String, String>>, name: &str) -> T {
        annotations.and_then(|all| all.get(name)?.parse().ok()).unwrap_or_default()
    }
    Need {
        memory_bytes: read(annotations, POD_MEMORY),
        cpus: cpus(read(annotations, POD_QUOTA), read(annotations, POD_PERIOD)),
    }
}

/// Processors that a quota of microseconds in each period keeps busy. Without a quota, or without a period, there is no
/// limit (`Documentation/scheduler/sched-bwc.rst`; the period's default is left to the guest).
fn cpus(quota_us: i64, period_us: u64) -> u64 {
    match (u64::try_from(quota_us), period_us) {
        (Ok(quota), period) if period > 0 => quota.div_ceil(period),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn need(resources: &serde_json::Value, annotations: &serde_json::Value) -> Need {
        let spec = json!({
            "ociVersion": "1.2.0", "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
            "annotations": annotations, "linux": {"resources": resources}
        });
        let spec = serde_json::from_value(spec).unwrap();
        Bundle { path: "/".into(), spec, is_live: false }.need()
    }

    #[test]
    fn limits_of_the_container_and_of_its_pod_are_read() {
        let container = json!({"memory": {"limit": 1 << 30}, "cpu": {"quota": 250_000, "period": 100_000}});
        assert_eq!(need(&container, &json!({})), Need { memory_bytes: 1 << 30, cpus: 3 });
        let pod = json!({POD_MEMORY: "3221225472", POD_QUOTA: "400000", POD_PERIOD: "100000"});
        assert_eq!(need(&container, &pod), Need { memory_bytes: 3 << 30, cpus: 4 });
        for unlimited in [json!({}), json!({"memory": {"limit": -1}, "cpu": {"quota": -1, "period": 100_000}})] {
            assert_eq!(need(&unlimited, &json!({POD_MEMORY: "lots", POD_QUOTA: "0"})), Need::default());
        }
    }

    #[test]
    fn a_machine_is_as_large_as_its_limits_and_the_host_let_it_be() {
        let size = |mebibytes: u64, cpus| {
            let need = Need { memory_bytes: mebibytes << 20, cpus };
            let config = need.size(Config::defaults().unwrap(), 4 << 30, 8).unwrap();
            (config.vm.memory.0 >> 20, config.vm.vcpus)
        };
        assert_eq!(size(0, 0), (256, 1), "what is configured");
        assert_eq!(size(64, 1), (256, 1));
        assert_eq!(size(256, 2), (324, 2));
        assert_eq!(size(2048, 8), (2144, 8));
        assert_eq!(size(1 << 20, 100), (4096, 8), "no more than the host has");
        let huge = Need { memory_bytes: u64::MAX, cpus: u64::MAX };
        assert_eq!(huge.size(Config::defaults().unwrap(), 2 << 40, 1000).unwrap().vm.vcpus, 64);
    }
}
