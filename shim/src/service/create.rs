//! Create: bundle → layers → VM → container, created and not running.

use std::path::Path;
use std::sync::Arc;

use agent_proto::{AdoptContainerRequest, CreateContainerRequest, ProcessCreated};
use containerd_shim::io::Stdio;
use containerd_shim_protos::api::{CreateTaskRequest, CreateTaskResponse};
use containerd_shim_protos::events::task::{TaskCreate, TaskIO};
use supermachine::{Owner, Trace, realtime_ns};
use tokio::time::timeout;
use tracing::warn;
use ttrpc::context::with_duration;

use super::{IMPORT_CALL, SLOW_CALL, Service, clock};
use crate::bundle::{Adoption, Bundle, BundleError, GuestSpec, Neighbour, Root, warmth};
use crate::error::ServiceError;
use crate::hooks::{self, Status};
use crate::host_cgroup::HostCgroup;
use crate::io::LogIdentity;
use crate::process_record;
use crate::sandbox::{Launch, Sandbox};
use crate::start_record;
use crate::task::{Container, HANG_UP_TIMEOUT, Identity, Process, watch};

impl Service {
    pub(super) async fn run_create(self, request: CreateTaskRequest) -> Result<CreateTaskResponse, ServiceError> {
        let trace = Trace::begin();
        if !request.checkpoint.is_empty() {
            return Err(ServiceError::Unimplemented { rpc: "Create from a checkpoint" });
        }
        let reservation = self
            .shared
            .tasks
            .reserve(&request.id)
            .ok_or_else(|| ServiceError::TaskExists { id: request.id.clone() })?;
        let mut bundle = Bundle::load(Path::new(&request.bundle))?;
        bundle.is_live = request.rootfs.is_empty();
        trace.end("bundle read", Owner::Shim);
        let sandbox = self.launch(&request, &bundle, &trace).await?;
        let container = match self.create_container(&request, bundle, Arc::clone(&sandbox), &trace).await {
            Ok(container) => Arc::new(container),
            Err(error) => {
                sandbox.leave().await;
                return Err(error);
            }
        };
        if let Err(error) = record(&container) {
            warn!("a `delete` without this shim will not find the VM: {error}");
        }
        reservation.fill(Arc::clone(&container));
        self.publish_create(&request, container.pid());
        tokio::spawn(watch(Arc::clone(&container), Arc::clone(&container.init), self.shared.publisher.clone()));
        trace.end("Create answered", Owner::Shim);
        start_record::keep(&container);
        Ok(CreateTaskResponse { pid: container.pid(), ..Default::default() })
    }

    async fn launch(
        &self,
        request: &CreateTaskRequest,
        bundle: &Bundle,
        trace: &Trace,
    ) -> Result<Arc<dyn Sandbox>, ServiceError> {
        let volumes = GuestSpec::volumes_of(bundle, &request.id)?;
        let root = self.locate_root(request, bundle).await?;
        let launch = Launch {
            volumes,
            warmth: warmth(bundle, &root, &request.id, request.terminal, !request.stdin.is_empty()),
            devices: GuestSpec::devices_of(bundle),
            namespace: self.shared.namespace.clone(),
            id: request.id.clone(),
            root,
            program: bundle.program(),
            need: bundle.need(),
            network: bundle.network()?,
            cgroup: HostCgroup::of(&bundle.spec),
            resources: bundle.host_resources(),
            annotations: bundle.spec.annotations().iter().flatten().map(|(n, v)| (n.clone(), v.clone())).collect(),
            trace: trace.clone(),
        };
        trace.end("disks found", Owner::Shim);
        Ok(self.shared.launcher.launch(launch).await?)
    }

    /// From the mounts in the request, or what whoever called has put together.
    async fn locate_root(&self, request: &CreateTaskRequest, bundle: &Bundle) -> Result<Root, ServiceError> {
        let path = bundle.rootfs();
        if bundle.is_live {
            return Ok(Root::at(path)?);
        }
        let found = self.shared.launcher.locate(&request.rootfs).await?;
        Ok(found.map_or_else(|| Root::Directory { path, mounts: request.rootfs.clone() }, Root::Disks))
    }

    /// Hooks, stdio and the agent's part.
    async fn create_container(
        &self,
        request: &CreateTaskRequest,
        bundle: Bundle,
        sandbox: Arc<dyn Sandbox>,
        trace: &Trace,
    ) -> Result<Container, ServiceError> {
        let mut identity = Identity::new(&request.id, &bundle);
        let neighbour = sandbox.joined().map(|_| self.neighbour(sandbox.pid()));
        if neighbour.is_some() {
            identity.cgroup = None;
        }
        let sockets = sandbox.sockets();
        let mut spec = GuestSpec::new(bundle.clone(), &request.id, neighbour, &sockets)?;
        if !spec.hooks.create.is_empty() {
            hooks::run(&spec.hooks.create, &identity.state(Status::Creating, sandbox.pid())).await?;
            // With nerdctl it is a hook that sets the network up, and writes the hosts that the container finds there.
            spec = GuestSpec::new(bundle, &request.id, neighbour, &sockets)?;
            trace.end("hooks run", Owner::Caller);
        }
        if neighbour.is_none() {
            sandbox.connect_network().await?;
            trace.end("network connected", Owner::Shim);
        }
        let stdio = Stdio::new(&request.stdin, &request.stdout, &request.stderr, request.terminal);
        let process = Arc::new(Process::new(None, stdio));
        let log = LogIdentity { namespace: &self.shared.namespace, id: &request.id };
        let created = async {
            let stdio = process.io.connect(&process.stdio, sandbox.as_ref(), &log).await?;
            let (created, phase) = match sandbox.is_warm() {
                true => (adopt(&identity, stdio, &mut spec, sandbox.as_ref()).await?, "container adopted"),
                false => {
                    let is_first = neighbour.is_none();
                    (make(&request.id, stdio, is_first, &mut spec, sandbox.as_ref()).await?, "container made")
                }
            };
            if neighbour.is_none() {
                clock::correct(sandbox.agent(), created.realtime_ns).await?;
            }
            trace.end(phase, Owner::Guest);
            sandbox.settle().await?;
            sandbox.serve_sockets().await?;
            Ok(created)
        };
        match created.await {
            Ok(created) => process.set_guest_pid(created.pid),
            Err(error) => {
                process.io.abort().await;
                return Err(explain(error, sandbox.as_ref()).await);
            }
        }
        Ok(Container::new(identity, sandbox, &spec, process, trace.clone()))
    }

    /// The container that came with the VM, to one that joins it.
    fn neighbour(&self, vmm: u32) -> Neighbour {
        let containers = self.shared.tasks.of_vm(vmm);
        let first =
            containers.first().filter(|first| first.sandbox.joined().is_none() && first.init.phase().exit().is_none());
        let with_pids = containers.iter().filter(|container| container.identity.has_pids).count();
        Neighbour { vmm, init: first.map(|first| first.init.guest_pid()), is_alone_with_pids: with_pids <= 1 }
    }

    fn publish_create(&self, request: &CreateTaskRequest, pid: u32) {
        self.shared.publisher.publish(TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(TaskIO {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
                ..Default::default()
            })
            .into(),
            pid,
            ..Default::default()
        });
    }
}

/// The agent's part in making a container.
async fn make(
    id: &str,
    stdio: agent_proto::Stdio,
    is_first: bool,
    spec: &mut GuestSpec,
    sandbox: &dyn Sandbox,
) -> Result<ProcessCreated, ServiceError> {
    let call = CreateContainerRequest {
        container_id: id.to_owned(),
        stdio: Some(stdio).into(),
        spec: std::mem::take(&mut spec.json),
        uses_volumes: !spec.bound.volumes.is_empty(),
        files: std::mem::take(&mut spec.bound.files),
        resolver: sandbox.resolver().into(),
        block_devices: sandbox.devices(),
        sockets: sandbox.sockets(),
        rootfs: Some(sandbox.rootfs().await?).into(),
        // Those that are there already have a clock that is not to jump.
        realtime_ns: if is_first { realtime_ns().unwrap_or(0) } else { 0 },
        ..Default::default()
    };
    let brings = call.rootfs.upper_content != 0;
    let limit = if brings { IMPORT_CALL } else { SLOW_CALL };
    let created = sandbox.agent().create_container(with_duration(limit), &call).await;
    created.map_err(|source| ServiceError::agent("create the container", source))
}

/// The agent's part in making a container of one that runs already.
async fn adopt(
    identity: &Identity,
    stdio: agent_proto::Stdio,
    spec: &mut GuestSpec,
    sandbox: &dyn Sandbox,
) -> Result<ProcessCreated, ServiceError> {
    let adoption = Adoption::new(&spec.json, &identity.annotations);
    let adoption = adoption.map_err(|problem| BundleError::Adoption { problem })?;
    let call = AdoptContainerRequest {
        container_id: identity.id.clone(),
        stdio: Some(stdio).into(),
        files: std::mem::take(&mut spec.bound.files),
        hostname: adoption.hostname,
        resources: adoption.resources,
        clone_process: adoption.clone_process,
        realtime_ns: realtime_ns().unwrap_or(0),
        ..Default::default()
    };
    let adopted = sandbox.agent().adopt_container(with_duration(SLOW_CALL), &call).await;
    adopted.map_err(|source| ServiceError::agent("adopt the container", source))
}

/// An agent that hangs up does so because its VM ends; how it ended says more.
async fn explain(error: ServiceError, sandbox: &dyn Sandbox) -> ServiceError {
    match error {
        ServiceError::Unreachable { call, source } => match timeout(HANG_UP_TIMEOUT, sandbox.exited()).await {
            Ok(how) => ServiceError::Gone { call, how },
            Err(_elapsed) => ServiceError::Unreachable { call, source },
        },
        other => other,
    }
}

/// Notes in the bundle what `delete` is to end and remove if this shim can't.
fn record(container: &Container) -> std::io::Result<()> {
    let bundle = &container.identity.bundle;
    process_record::write(&bundle.join(process_record::VMM), container.pid())?;
    // For its first container the shim has done so.
    let Some(remains) = container.sandbox.joined() else { return Ok(()) };
    process_record::write(&bundle.join(process_record::SHIM), std::process::id())?;
    remains.write(bundle)
}
