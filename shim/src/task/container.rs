//! A container: its VM, its init and its execs.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agent_proto::{ContainerRequest, ContainerStats, ProcessRequest};
use supermachine::Trace;
use tokio::sync::{OnceCell, RwLock};
use tracing::{debug, error};
use ttrpc::context::with_duration;

use super::{Phase, Process};
use crate::bundle::{Bundle, GuestSpec, HostHooks, is_pid_namespace_own};
use crate::error::ServiceError;
use crate::hooks::{ContainerState, Status};
use crate::host_cgroup::HostCgroup;
use crate::sandbox::Sandbox;

/// How long a guest may take to bring to its disk what a container wrote.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take over what a container uses: containerd collects from one container after the other, and waits
/// as long for each.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a container is called and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Container id.
    pub(crate) id: String,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// Version of the specification it was written for.
    pub(crate) oci_version: String,
    /// Its annotations.
    pub(crate) annotations: HashMap<String, String>,
    /// Where its VMM is, if it came with it.
    pub(crate) cgroup: Option<HostCgroup>,
    /// Whether its process ids are its own.
    pub(crate) has_pids: bool,
}

impl Identity {
    pub(crate) fn new(id: &str, bundle: &Bundle) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.path.clone(),
            oci_version: bundle.spec.version().clone(),
            annotations: bundle.spec.annotations().clone().unwrap_or_default(),
            cgroup: HostCgroup::of(&bundle.spec),
            has_pids: is_pid_namespace_own(&bundle.spec),
        }
    }

    /// The state that hooks are told.
    pub(crate) fn state(&self, status: Status, pid: u32) -> ContainerState {
        ContainerState {
            oci_version: self.oci_version.clone(),
            id: self.id.clone(),
            status,
            pid,
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

/// A container that was created and not deleted yet.
pub(crate) struct Container {
    pub(crate) identity: Identity,
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) hooks: HostHooks,
    pub(crate) init: Arc<Process>,
    pub(crate) created_at: Instant,
    /// Where the phases of its start are noted.
    pub(crate) trace: Trace,
    /// Held by whoever makes a process in it, and exclusively while it is being paused: a process would be stopped
    /// halfway, and whoever waits for it with it.
    pub(crate) freezer: RwLock<()>,
    execs: Mutex<BTreeMap<String, Arc<Process>>>,
    /// How many processes killed for lack of memory were told of.
    oom_kills: AtomicU64,
    /// What it used, once its VM is about to end.
    stats: OnceLock<ContainerStats>,
    retired: OnceCell<()>,
}

impl Container {
    pub(crate) fn new(
        identity: Identity,
        sandbox: Arc<dyn Sandbox>,
        spec: &GuestSpec,
        init: Arc<Process>,
        trace: Trace,
    ) -> Self {
        Self {
            identity,
            trace,
            sandbox,
            hooks: spec.hooks.clone(),
            init,
            created_at: Instant::now(),
            freezer: RwLock::default(),
            execs: Mutex::default(),
            oom_kills: AtomicU64::default(),
            stats: OnceLock::new(),
            retired: OnceCell::new(),
        }
    }

    /// The pid that containerd knows every process of the container by.
    pub(crate) fn pid(&self) -> u32 {
        self.sandbox.pid()
    }

    /// How many processes killed for lack of memory were told of.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.oom_kills.load(Ordering::Relaxed)
    }

    /// Notes how many there are. False if as many were told of.
    pub(crate) fn set_oom_kills(&self, count: u64) -> bool {
        self.oom_kills.fetch_max(count, Ordering::Relaxed) < count
    }

    /// The init, or the exec of that name.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Arc<Process>, ServiceError> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        self.execs()
            .get(exec_id)
            .cloned()
            .ok_or_else(|| ServiceError::NoExec { id: self.identity.id.clone(), exec_id: exec_id.to_owned() })
    }

    /// Adds an exec.
    pub(crate) fn add_exec(&self, id: &str, process: Process) -> Result<(), ServiceError> {
        let mut execs = self.execs();
        if execs.contains_key(id) {
            return Err(ServiceError::ExecExists { id: self.identity.id.clone(), exec_id: id.to_owned() });
        }
        execs.insert(id.to_owned(), Arc::new(process));
        Ok(())
    }

    /// Forgets an exec.
    pub(crate) fn remove_exec(&self, id: &str) {
        self.execs().remove(id);
    }

    /// Execs that run now.
    pub(crate) fn running_execs(&self) -> Vec<Arc<Process>> {
        self.execs().values().filter(|exec| exec.phase() == Phase::Running).cloned().collect()
    }

    /// Whether the output of every process is delivered, so that nothing is needed of the VM any more once they ended.
    pub(crate) fn is_delivered(&self) -> bool {
        self.init.io.is_delivered() && self.execs().values().all(|exec| exec.io.is_delivered())
    }

    /// What it uses; once its VM has ended, what it had used then.
    pub(crate) async fn stats(&self) -> ttrpc::Result<ContainerStats> {
        if let Some(last) = self.stats.get() {
            return Ok(last.clone());
        }
        // Its VM may end meanwhile.
        self.read_stats().await.or_else(|error| self.stats.get().cloned().ok_or(error))
    }

    async fn read_stats(&self) -> ttrpc::Result<ContainerStats> {
        let call = ContainerRequest { container_id: self.identity.id.clone(), ..Default::default() };
        self.sandbox.agent().read_stats(with_duration(STATS_TIMEOUT), &call).await
    }

    /// Takes a container whose processes have ended out of its VM, once what they wrote is on its disk. Any number of
    /// calls; each returns when that is done.
    pub(crate) async fn retire(&self) {
        let end = async {
            tokio::select! {
                biased;
                // A VM that is gone has nothing left to give.
                _ = self.sandbox.exited() => {}
                () = async {
                    self.keep_stats().await;
                    self.flush().await;
                } => {}
            }
            self.sandbox.leave().await;
        };
        self.retired.get_or_init(|| end).await;
    }

    async fn keep_stats(&self) {
        match self.read_stats().await {
            Ok(stats) => drop(self.stats.set(stats)),
            Err(error) => debug!("what the container used isn't known: {error}"),
        }
    }

    async fn flush(&self) {
        let call = ProcessRequest { container_id: self.identity.id.clone(), ..Default::default() };
        if let Err(error) = self.sandbox.agent().delete_process(with_duration(FLUSH_TIMEOUT), &call).await {
            error!("what the container wrote last may be lost: {error}");
        }
    }

    fn execs(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Container").field("identity", &self.identity).finish_non_exhaustive()
    }
}
