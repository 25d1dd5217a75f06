//! Runs OCI hooks on the host (OCI runtime spec, "POSIX-platform Hooks").

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use serde::Serialize;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// In the bundle: poststop hooks have run, and must not again.
pub(crate) const POSTSTOP_RAN: &str = "poststop.ran";
/// A hook without a timeout of its own is given up after this.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a failed hook's standard error an error message repeats, in bytes.
const STDERR_SHOWN: usize = 1024;

/// Why a hook failed.
#[derive(Debug, Error)]
pub(crate) enum HookError {
    /// The container's state could not be written for hooks.
    #[error("encode the container's state for hooks")]
    Encode(#[source] serde_json::Error),
    /// It could not be run.
    #[error("run hook {path}")]
    Run {
        /// The program.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("hook {path} failed ({status}): {stderr}")]
    Failed {
        /// The program.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It took too long.
    #[error("hook {path} did not end within {limit:?}")]
    Timeout {
        /// The program.
        path: PathBuf,
        /// What it was given.
        limit: Duration,
    },
}

/// The container's state as hooks read it from standard input (OCI runtime spec, "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerState {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) status: Status,
    /// The VMM's process id; 0 once stopped.
    pub(crate) pid: u32,
    pub(crate) bundle: PathBuf,
    pub(crate) annotations: HashMap<String, String>,
}

/// A container's status in the words of the OCI runtime spec.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Running,
    Stopped,
}

/// Runs hooks one after the other; the first that fails ends it.
pub(crate) async fn run(hooks: &[Hook], state: &ContainerState) -> Result<(), HookError> {
    if hooks.is_empty() {
        return Ok(());
    }
    let input = serde_json::to_vec(state).map_err(HookError::Encode)?;
    for hook in hooks {
        run_one(hook, &state.bundle, &input).await?;
    }
    Ok(())
}

async fn run_one(hook: &Hook, bundle: &Path, input: &[u8]) -> Result<(), HookError> {
    let path = hook.path();
    let limit = hook.timeout().and_then(|s| u64::try_from(s).ok()).map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let failed = |source| HookError::Run { path: path.clone(), source };
    let mut command = Command::new(path);
    let arguments = hook.args().as_deref().unwrap_or_default();
    if let Some(name) = arguments.first() {
        command.arg0(name);
    }
    command
        .args(arguments.iter().skip(1))
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')))
        .current_dir(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(failed)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A hook may end without reading its input; its exit status is what counts.
            drop(stdin.write_all(input).await);
        }
    };
    let ended = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = match tokio::time::timeout(limit, ended).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => return Err(HookError::Timeout { path: path.clone(), limit }),
    };
    if output.status.success() {
        return Ok(());
    }
    let shown = output.stderr.len().saturating_sub(STDERR_SHOWN);
    let stderr = String::from_utf8_lossy(output.stderr.get(shown..).unwrap_or_default()).trim().to_owned();
    Err(HookError::Failed { path: path.clone(), status: output.status, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        serde_json::from_value(serde_json::json!({
            "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["A=b=c"], "timeout": timeout
        }))
        .unwrap()
    }

    fn state(bundle: &Path) -> ContainerState {
        ContainerState {
            oci_version: "1.2.0".into(),
            id: "c1".into(),
            status: Status::Creating,
            pid: 42,
            bundle: bundle.to_owned(),
            annotations: HashMap::new(),
        }
    }

    #[tokio::test]
    async fn hook_reads_the_state_and_only_its_own_environment() {
        let dir = tempfile::tempdir().unwrap();
        let script = "test \"$A\" = b=c && test -z \"$CARGO\" && cat > state";
        run(&[hook(script, None)], &state(dir.path())).await.unwrap();
        let state: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dir.path().join("state")).unwrap()).unwrap();
        assert_eq!(state["status"], "creating");
        assert_eq!(state["pid"], 42);
        assert_eq!(state["ociVersion"], "1.2.0");
    }

    #[tokio::test]
    async fn failure_stops_the_rest_and_says_what_the_hook_said() {
        let dir = tempfile::tempdir().unwrap();
        let hooks = [hook("echo no network >&2; exit 3", None), hook("touch second", None)];
        let error = run(&hooks, &state(dir.path())).await.unwrap_err();
        assert!(error.to_string().contains("no network"), "{error}");
        assert!(!dir.path().join("second").exists());
    }

    #[tokio::test]
    async fn slow_hook_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let error = run(&[hook("exec sleep 600", Some(1))], &state(dir.path())).await.unwrap_err();
        assert!(matches!(error, HookError::Timeout { .. }));
    }
}
