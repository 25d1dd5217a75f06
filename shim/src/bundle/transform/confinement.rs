//! Host cgroup and security labels: the host's own confinement of the VM, meaningless to the guest kernel.

use oci_spec::runtime::Spec;

/// Removes the cgroup path, the Intel RDT group and the labels of security modules that the guest kernel doesn't have.
pub(super) fn remove(spec: &mut Spec) {
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(None).set_intel_rdt(None).set_mount_label(None);
    }
    if let Some(process) = spec.process_mut() {
        process.set_apparmor_profile(None).set_selinux_label(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_confinement_is_gone_and_resources_stay() {
        let mut spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"],
                "apparmorProfile": "cri-containerd.apparmor.d", "selinuxLabel": "a:b"
            },
            "linux": {"cgroupsPath": "/default/c1", "mountLabel": "l", "resources": {"pids": {"limit": 9}}}
        }))
        .unwrap();
        remove(&mut spec);
        let left = serde_json::to_value(&spec).unwrap();
        assert_eq!(left["linux"], serde_json::json!({"resources": {"pids": {"limit": 9}}}));
        assert!(left["process"].get("apparmorProfile").is_none() && left["process"].get("selinuxLabel").is_none());
    }
}
