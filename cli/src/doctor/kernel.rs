//! The host's kernel.

use super::modules::Modules;
use super::{Finding, Root, Status};

/// Processes are waited for by descriptors since then.
const OLDEST: (u32, u32) = (5, 4);
/// Tables of the packet filter go with the process that made them since then (docs/decisions/0008-tap-and-tc.md).
const OLDEST_WITH_OWNED_TABLES: (u32, u32) = (5, 12);

/// Modules, and what doesn't work without them.
const MODULES: [(&str, &[&str], Status, &str); 3] = [
    ("overlay file system", &["overlay"], Status::Problem, "containers' root file systems can't be mounted"),
    (
        "network devices",
        &["tun", "sch_ingress", "cls_u32", "act_mirred"],
        Status::Problem,
        "containers can't be given a network",
    ),
    (
        "packet filter",
        &["nf_tables", "nft_socket", "nft_tproxy"],
        Status::Warning,
        "what dials localhost in a container's network namespace doesn't reach it",
    ),
];

pub(super) fn check(root: &Root) -> Vec<Finding> {
    let release = root.read("/proc/sys/kernel/osrelease").trim().to_owned();
    let modules = Modules::of(root, &release);
    let mut findings = vec![version(&release)];
    findings.extend(MODULES.map(|(check, names, status, without)| require(check, names, status, without, &modules)));
    findings.push(cgroups(root));
    findings
}

fn version(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let mut numbers = release.split(['.', '-', '+']).map_while(|number| number.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Finding::warning(
            CHECK,
            format!("its release `{release}` can't be read"),
            "check that it is 5.12 or later",
        );
    };
    if (major, minor) < OLDEST {
        return Finding::problem(CHECK, format!("{release} is too old"), "use Linux 5.12 or later");
    }
    if (major, minor) < OLDEST_WITH_OWNED_TABLES {
        let without = "what dials localhost in a container's network namespace doesn't reach it";
        return Finding::warning(CHECK, format!("{release} is old: {without}"), "use Linux 5.12 or later");
    }
    Finding::ok(CHECK, release)
}

fn require(check: &'static str, names: &[&str], status: Status, without: &str, modules: &Modules) -> Finding {
    let missing: Vec<_> = names.iter().filter(|name| modules.has(name) == Some(false)).copied().collect();
    if !missing.is_empty() {
        let found = format!("the kernel has no {}: {without}", missing.join(", "));
        let remedy = "install the kernel's package with all modules, or one that has them".to_owned();
        return Finding { check, status, found, remedy: Some(remedy) };
    }
    if names.iter().any(|name| modules.has(name).is_none()) {
        let found = format!("this kernel has no list of its modules: {} may be missing", names.join(", "));
        return Finding::warning(check, found, "check the kernel's configuration if a container doesn't start");
    }
    Finding::ok(check, names.join(", "))
}

fn cgroups(root: &Root) -> Finding {
    const CHECK: &str = "cgroups";
    let controllers = root.read("/sys/fs/cgroup/cgroup.controllers");
    let missing: Vec<_> =
        ["cpu", "memory"].into_iter().filter(|name| !controllers.split(' ').any(|c| c.trim() == *name)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, "version 2");
    }
    Finding::warning(
        CHECK,
        format!("no cgroup of version 2 with {}: the host bounds no virtual machine", missing.join(", ")),
        "boot with `systemd.unified_cgroup_hierarchy=1`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::root::fake;

    #[test]
    fn releases_are_compared_as_numbers() {
        for (release, status) in [
            ("6.12.57+deb13-cloud-amd64", Status::Ok),
            ("5.12-rc1", Status::Ok),
            ("5.10.0-35-amd64", Status::Warning),
            ("4.19.0", Status::Problem),
            ("", Status::Warning),
        ] {
            assert_eq!(version(release).status, status, "{release}");
        }
    }

    #[test]
    fn a_host_with_everything_is_fine_and_what_is_missing_is_named() {
        let all = "a/overlay.ko\na/tun.ko\na/sch_ingress.ko\na/cls_u32.ko\na/act_mirred.ko\na/nf_tables.ko\n\
                   a/nft_socket.ko\na/nft_tproxy.ko\n";
        let (_directory, root) = fake(&[
            ("/proc/sys/kernel/osrelease", "6.12.1\n"),
            ("/lib/modules/6.12.1/modules.builtin", all),
            ("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
        ]);
        let findings = check(&root);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:?}");
        let (_directory, root) = fake(&[
            ("/proc/sys/kernel/osrelease", "6.12.1\n"),
            ("/lib/modules/6.12.1/modules.builtin", "a/overlay.ko\na/tun.ko\n"),
        ]);
        let findings = check(&root);
        let statuses: Vec<_> = findings.iter().map(|finding| finding.status).collect();
        use Status::{Ok, Problem, Warning};
        assert_eq!(statuses, [Ok, Ok, Problem, Warning, Warning]);
        assert!(findings[2].found.starts_with("the kernel has no sch_ingress, cls_u32, act_mirred"), "{findings:?}");
        let unknown = require("c", &["tun"], Status::Problem, "", &Modules::of(&root, "other"));
        assert_eq!(unknown.status, Warning);
    }
}
