//! The node daemon answers.

use std::time::Duration;

use supermachine::daemon::{self, EnsureLayersRequest};
use supermachine_config::Paths;
use ttrpc::context::with_duration;

use super::{Finding, Root};

const CHECK: &str = "snapshotter";
const PROGRAM: &str = "supermachine-snapshotter";
const START: &str = "systemctl start supermachine-snapshotter";
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn check(root: &Root, paths: &Paths) -> Finding {
    for socket in [&paths.snapshotter_socket, &paths.daemon_socket] {
        if !root.at(socket).exists() {
            return Finding::problem(CHECK, format!("there is no {}", socket.display()), START);
        }
    }
    // The service manager holds the sockets, and would start it if it were asked.
    if root.processes(PROGRAM).is_empty() {
        return Finding::warning(CHECK, "it doesn't run yet: the first container that needs it waits for it", START);
    }
    match ask(paths).await {
        Ok(()) => Finding::ok(CHECK, "it answers"),
        Err(why) => Finding::problem(CHECK, why, "systemctl restart supermachine-snapshotter"),
    }
}

/// Asks for the squashfs files of no layer.
async fn ask(paths: &Paths) -> Result<(), String> {
    let client = daemon::connect(&paths.daemon_socket).await.map_err(|error| supermachine::chain(&error.source))?;
    let asked = client.ensure_layers(with_duration(ANSWER_WITHIN), &EnsureLayersRequest::default()).await;
    asked.map(drop).map_err(|error| format!("{} doesn't answer: {error}", paths.daemon_socket.display()))
}

#[cfg(test)]
mod tests {
    use supermachine_config::Config;

    use super::*;
    use crate::doctor::Status;
    use crate::doctor::root::fake;

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_not_asked() {
        let paths = Config::defaults().unwrap().paths;
        let (_directory, root) = fake(&[("/run/supermachine/snapshotter.sock", "")]);
        let finding = check(&root, &paths).await;
        assert_eq!(finding, Finding::problem(CHECK, "there is no /run/supermachine/daemon.sock", START));
        let (_directory, root) =
            fake(&[("/run/supermachine/snapshotter.sock", ""), ("/run/supermachine/daemon.sock", "")]);
        assert_eq!(check(&root, &paths).await.status, Status::Warning);
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_a_problem() {
        let (directory, root) = fake(&[("/s", ""), ("/d", ""), ("/proc/5/comm", "supermachine-sn\n")]);
        let mut paths = Config::defaults().unwrap().paths;
        (paths.snapshotter_socket, paths.daemon_socket) = ("/s".into(), directory.path().join("d"));
        let finding = check(&Root::new("/"), &paths).await;
        assert_eq!(finding.status, Status::Problem, "{finding:?}");
        paths.daemon_socket = "/d".into();
        assert_eq!(check(&root, &paths).await.status, Status::Problem);
    }
}
