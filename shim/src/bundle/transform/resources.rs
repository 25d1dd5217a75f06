//! Resources, by who can hand them out.
//!
//! What a container has for itself, memory and processes and processor time, the guest limits. What it shares with
//! others of the host, and what is named by the host's numbers, processors and block devices, the host does, for the
//! VM as a whole.

use oci_spec::runtime::{LinuxCpu, LinuxResources, Spec};

/// What the guest's cgroup of the container limits.
pub(crate) fn of_guest(resources: &LinuxResources) -> LinuxResources {
    let mut guest = resources.clone();
    guest.set_block_io(None);
    if let Some(cpu) = guest.cpu_mut() {
        cpu.set_cpus(None).set_mems(None);
    }
    guest
}

/// What the host's cgroup of the VMM limits.
pub(crate) fn of_host(resources: &LinuxResources) -> LinuxResources {
    let mut host = LinuxResources::default();
    host.set_block_io(resources.block_io().clone());
    if let Some(all) = resources.cpu() {
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(all.shares()).set_idle(all.idle()).set_cpus(all.cpus().clone()).set_mems(all.mems().clone());
        host.set_cpu(Some(cpu));
    }
    host
}

/// Leaves the guest's part.
pub(super) fn localise(spec: &mut Spec) {
    if let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) {
        *resources = of_guest(resources);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_gets_what_it_can_hand_out() {
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": {"limit": 9}, "pids": {"limit": 8}, "unified": {"memory.high": "7"},
            "cpu": {"shares": 6, "quota": 5, "period": 4, "cpus": "0-1", "mems": "0"},
            "blockIO": {"weight": 100}
        }))
        .unwrap();
        let (guest, host) = (of_guest(&resources), of_host(&resources));
        assert_eq!(
            serde_json::to_value(&guest).unwrap(),
            serde_json::json!({
                "memory": {"limit": 9}, "pids": {"limit": 8}, "unified": {"memory.high": "7"},
                "cpu": {"shares": 6, "quota": 5, "period": 4}
            })
        );
        assert_eq!(
            serde_json::to_value(&host).unwrap(),
            serde_json::json!({"cpu": {"shares": 6, "cpus": "0-1", "mems": "0"}, "blockIO": {"weight": 100}})
        );
    }
}
