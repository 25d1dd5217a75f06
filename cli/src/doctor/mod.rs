//! What `doctor` looks at, a subject a file. Each check is a function of what it looks at, and changes nothing.

mod containerd;
mod containerd_config;
mod daemon;
mod finding;
mod kernel;
mod kvm;
mod modules;
mod programs;
mod root;
mod store;

use rustix::process::geteuid;
use supermachine_config::Config;

pub(crate) use finding::{Finding, Status};
pub(crate) use root::Root;

/// Looks at everything.
pub(crate) async fn examine(config: &Config, root: &Root) -> Vec<Finding> {
    let mut findings = vec![rights(geteuid().is_root())];
    findings.extend(kernel::check(root));
    findings.extend(programs::check(&config.paths, root));
    findings.extend(kvm::check(config).await);
    findings.extend(containerd::check(root));
    findings.push(containerd_config::check(root, &config.paths.snapshotter_socket));
    findings.push(daemon::check(root, &config.paths).await);
    findings.extend(store::check(&config.paths));
    findings
}

fn rights(is_root: bool) -> Finding {
    const CHECK: &str = "rights";
    if is_root {
        return Finding::ok(CHECK, "run by root");
    }
    Finding::warning(CHECK, "not run by root: some of what follows may only mean that", "run it as root")
}
