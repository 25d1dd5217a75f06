//! Making containers and processes: streams, zygote, and the new process's own report.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};

use agent_proto::{CreateContainerRequest, CreateProcessRequest, RESOLVER, Resolver, Stdio};

use super::containers::Container;
use super::dormancy::Dormant;
use super::process::{Process, hear};
use super::{Server, files};
use crate::cgroup::Cgroup;
use crate::container::{Progress, TerminalSize};
use crate::descriptor::Descriptor;
use crate::guest::Guest;
use crate::kept_streams::KeptStreams;
use crate::packet;
use crate::refusal::{Kind, Refusal};
use crate::resolver::RunningResolver;
use crate::stdio::{HostStreams, Pipes, copy_terminal};
use crate::zygote::{CreateOrder, JoinOrder};

/// What the zygote is asked to make.
enum Order<'a> {
    Container { order: CreateOrder, spec: &'a [u8], cgroup: Cgroup },
    Further { order: JoinOrder, process: &'a [u8] },
}

/// Where a process's standard streams lead.
enum Streams {
    /// To the host.
    Host { streams: HostStreams, terminal: bool },
    /// Nowhere yet.
    Kept { stdin: bool },
}

impl Streams {
    /// The pipes that carry them; none for a terminal.
    fn pipes(&self) -> std::io::Result<Option<Pipes>> {
        match self {
            Self::Host { terminal: true, .. } => Ok(None),
            Self::Host { streams, terminal: false } => Pipes::new(streams).map(Some),
            Self::Kept { stdin } => Pipes::unattached(*stdin).map(Some),
        }
    }
}

/// A process, and its streams if they are kept.
struct Made {
    process: Process,
    kept: Option<KeptStreams>,
}

impl<G: Guest> Server<G> {
    /// Makes a container; nothing stays behind if that fails.
    pub(super) async fn make_container(&self, request: &CreateContainerRequest) -> Result<i32, Refusal> {
        let id = request.container_id.as_str();
        let reservation = self.containers.reserve(id)?;
        let cgroup = Cgroup::of(&self.places.cgroups, id);
        match self.try_make_container(request, &cgroup).await {
            Ok(Made { process, kept }) => {
                let pid = process.pid();
                let dormant = kept.map(|streams| Arc::new(Dormant::new(streams)));
                reservation.fill(Container { first: Arc::new(process), cgroup, place: id.to_owned(), dormant });
                Ok(pid)
            }
            Err(refusal) => {
                self.zygote.forget(id).await;
                for result in [
                    cgroup.remove().await.map_err(|error| error.to_string()),
                    self.dismantle(id).map_err(|refusal| refusal.message),
                ] {
                    if let Err(error) = result {
                        eprintln!("agent: clean up after a container that wasn't made: {error}");
                    }
                }
                Err(refusal)
            }
        }
    }

    /// Makes a further process of a container.
    pub(super) async fn make_process(&self, request: &CreateProcessRequest) -> Result<i32, Refusal> {
        let (reservation, container) = self.containers.reserve_process(&request.container_id, &request.exec_id)?;
        if container.first.exit().is_some() || container.first.is_created().await {
            let message = format!("container {:?} isn't running", request.container_id);
            return Err(Refusal::new(Kind::FailedPrecondition, message));
        }
        // It would stop on its way, too.
        if container.cgroup.is_freezing().unwrap_or(false) {
            let message = format!("container {:?} is paused", request.container_id);
            return Err(Refusal::new(Kind::FailedPrecondition, message));
        }
        let stdio = request.stdio.as_ref().unwrap_or_default();
        let streams = Streams::Host { streams: self.claim_streams(stdio).await?, terminal: stdio.terminal };
        let order = JoinOrder { container: container.place, terminal: terminal_size(stdio) };
        let Made { process, .. } = self.make(Order::Further { order, process: &request.process }, streams).await?;
        let pid = process.pid();
        reservation.fill_process(Arc::new(process));
        Ok(pid)
    }

    async fn try_make_container(&self, request: &CreateContainerRequest, cgroup: &Cgroup) -> Result<Made, Refusal> {
        if request.realtime_ns != 0 {
            self.guest.set_clock(request.realtime_ns)?;
        }
        let id = request.container_id.as_str();
        let stdio = request.stdio.as_ref().unwrap_or_default();
        let rootfs = request.rootfs.as_ref().unwrap_or_default();
        let volumes = async { if request.uses_volumes { self.guest.mount_volumes().await } else { Ok(()) } };
        let assemble = async {
            let content = self.claim_blocking(rootfs.upper_content).await?;
            self.guest.assemble(id, rootfs, content).await
        };
        let devices = self.guest.attach_devices(&request.block_devices);
        let (rootfs, streams, (), devices) = tokio::try_join!(assemble, self.claim_streams(stdio), volumes, devices)?;
        let files = files::keep(&self.places.files.join(id), &request.files)?;
        self.sockets.make(id, &request.sockets)?;
        if let Some(server) = request.resolver.as_ref() {
            self.start_resolver(id, server)?;
        }
        let (terminal, network, streams) = match request.capturable.as_ref() {
            Some(capturable) => (None, self.guest.promise_network(), Streams::Kept { stdin: capturable.stdin }),
            None => {
                let streams = Streams::Host { streams, terminal: stdio.terminal };
                (terminal_size(stdio), self.guest.network(), streams)
            }
        };
        let order = CreateOrder { container: id.to_owned(), rootfs, files, terminal, network, devices };
        let order = Order::Container { order, spec: &request.spec, cgroup: cgroup.clone() };
        self.make(order, streams).await
    }

    /// Has a container's name server answer in its network.
    fn start_resolver(&self, container: &str, server: &Resolver) -> Result<(), Refusal> {
        let started = RunningResolver::start(self.guest.network().as_deref(), &self.places.sockets, server);
        let resolver = started.map_err(|error| {
            Refusal::new(Kind::Internal, format!("be the container's name server at {RESOLVER}: {error}"))
        })?;
        self.resolvers.lock().unwrap_or_else(PoisonError::into_inner).insert(container.to_owned(), resolver);
        Ok(())
    }

    /// Makes a process and waits until it is set up.
    async fn make(&self, order: Order<'_>, streams: Streams) -> Result<Made, Refusal> {
        let failed = |error: std::io::Error| Refusal::new(Kind::Internal, format!("make a process: {error}"));
        let (agent_end, process_end) = packet::pair().map_err(failed)?;
        let pipes = streams.pipes().map_err(failed)?;
        let mut gifts: Vec<BorrowedFd<'_>> = vec![process_end.as_fd()];
        gifts.extend(pipes.iter().flat_map(Pipes::for_process));
        let expectation = self.reaper.expect();
        let (pid, exit) = match order {
            Order::Container { order, spec, cgroup } => {
                let pid = self.zygote.create(order, spec, &gifts).await?;
                (pid, expectation.met(pid, Some(cgroup)))
            }
            Order::Further { order, process } => {
                let pid = self.zygote.join(order, process, &gifts).await?;
                (pid, expectation.met(pid, None))
            }
        };
        drop(gifts);
        drop(process_end);
        let control = Descriptor::new(agent_end).map_err(failed)?;
        let controller = await_ready(&control).await?;
        let controller = controller.map(|fd| Descriptor::new(fd).map(Arc::new)).transpose().map_err(failed)?;
        let mut kept = None;
        match (pipes, &controller, streams) {
            (Some(pipes), _, Streams::Host { streams, .. }) => pipes.copy(streams).map_err(failed)?,
            (Some(pipes), _, Streams::Kept { .. }) => kept = Some(pipes.keep().map_err(failed)?),
            (None, Some(controller), Streams::Host { streams, .. }) => copy_terminal(controller, streams),
            (None, ..) => return Err(Refusal::new(Kind::Internal, "the process reported no terminal")),
        }
        Ok(Made { process: Process::new(pid, exit, control, controller), kept })
    }

    pub(super) async fn claim_streams(&self, stdio: &Stdio) -> Result<HostStreams, Refusal> {
        // A terminal has one stream for both kinds of output.
        let stderr = if stdio.terminal { 0 } else { stdio.stderr };
        let (stdin, stdout, stderr) = tokio::try_join!(
            self.streams.claim(stdio.stdin),
            self.streams.claim(stdio.stdout),
            self.streams.claim(stderr)
        )?;
        Ok(HostStreams { stdin, stdout, stderr })
    }

    /// Takes apart what a container's files were assembled from.
    pub(super) fn dismantle(&self, container: &str) -> Result<(), Refusal> {
        drop(self.resolvers.lock().unwrap_or_else(PoisonError::into_inner).remove(container));
        let removed = self.sockets.remove(container);
        removed.map_err(|error| Refusal::new(Kind::Internal, format!("remove the container's sockets: {error}")))?;
        self.guest.dismantle(container)?;
        let directory = self.places.files.join(container);
        files::remove(&directory)
            .map_err(|error| Refusal::new(Kind::Internal, format!("remove {}: {error}", directory.display())))
    }
}

async fn await_ready(control: &Descriptor) -> Result<Option<std::os::fd::OwnedFd>, Refusal> {
    match hear(control).await? {
        Some((Progress::Ready, controller)) => Ok(controller),
        Some((Progress::Failed(refusal), _)) => Err(refusal),
        None => Err(Refusal::new(Kind::Internal, "the new process died before it was set up")),
    }
}

fn terminal_size(stdio: &Stdio) -> Option<TerminalSize> {
    let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    stdio.terminal.then(|| TerminalSize { columns: characters(stdio.columns), rows: characters(stdio.rows) })
}
