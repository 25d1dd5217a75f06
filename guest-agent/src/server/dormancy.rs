//! Containers that a machine is captured with: made ready, put to rest, adopted in a restored machine, and let go on.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_proto::{AdoptContainerRequest, AwaitReadyRequest, CreateProcessRequest};
use rustix::thread::LinkNameSpaceType;
use tokio::time::{sleep, timeout};

use super::containers::Container;
use super::resources::oom_kills;
use super::{Server, files};
use crate::connections::{find_outward, is_listening};
use crate::guest::Guest;
use crate::kept_streams::KeptStreams;
use crate::namespace::inside;
use crate::refusal::{Kind, Refusal, failed};

/// How often it is looked whether a port is listened on: nothing tells.
const LISTEN_POLL: Duration = Duration::from_millis(5);
/// How long a container may take to be told of its adoption: less than whoever starts it waits.
const TELL_WITHIN: Duration = Duration::from_secs(45);
/// What the process is called that tells a container of its adoption.
const CLONE_PROCESS: &str = "supermachine-clone";

/// What a container has that a machine is captured with.
#[derive(Debug)]
pub(super) struct Dormant {
    streams: KeptStreams,
    rest: Mutex<Rest>,
}

/// Where on its way it is.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    /// It runs, before the capture or after its start.
    Awake,
    /// It is stopped, and nobody's.
    Asleep,
    /// It is stopped until it is started, with this process.
    Adopted { clone_process: Vec<u8> },
}

impl Dormant {
    pub(super) fn new(streams: KeptStreams) -> Self {
        Self { streams, rest: Rest::Awake.into() }
    }

    /// Whether it waits to be adopted.
    pub(super) fn is_asleep(&self) -> bool {
        *self.rest() == Rest::Asleep
    }

    /// Whether it waits to be started.
    pub(super) fn is_adopted(&self) -> bool {
        matches!(*self.rest(), Rest::Adopted { .. })
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<G: Guest> Server<G> {
    pub(super) async fn await_ready(&self, request: &AwaitReadyRequest) -> Result<(), Refusal> {
        let container = self.containers.container(&request.container_id)?;
        let dormant = dormant(&container)?;
        let port = u16::try_from(request.port)
            .map_err(|_large| Refusal::new(Kind::InvalidArgument, format!("port: {} is no port", request.port)))?;
        let ready = async {
            while port != 0 && !is_listening(container.first.pid(), port).map_err(failed("look at its sockets"))? {
                sleep(LISTEN_POLL).await;
            }
            dormant.streams.await_text(&request.output).await;
            Ok(())
        };
        tokio::select! {
            ready = ready => ready,
            exit = container.first.wait() => {
                let (code, last) = (exit?.code, dormant.streams.last());
                let message = format!("its process exited with code {code} before it was ready; it wrote last: {last}");
                Err(Refusal::new(Kind::FailedPrecondition, message))
            }
        }
    }

    /// Stops a container and closes the gate.
    pub(super) async fn put_to_rest(&self, id: &str) -> Result<(), Refusal> {
        let refused = |message: String| Refusal::new(Kind::FailedPrecondition, message);
        let container = self.containers.container(id)?;
        let dormant = dormant(&container)?;
        if self.containers.count() != 1 || !self.containers.further(id).is_empty() {
            return Err(refused(format!("something else runs beside the process of container {id:?}")));
        }
        self.freeze(id).await?;
        if let Err(refusal) = check_rest(&container) {
            self.thaw(id)?;
            return Err(refusal);
        }
        *dormant.rest() = Rest::Asleep;
        self.resumed.store(false, Ordering::Release);
        Ok(())
    }

    /// Gives the container that rests here its name, and all that tells it from others.
    pub(super) async fn adopt(&self, request: &AdoptContainerRequest) -> Result<i32, Refusal> {
        let container = self.containers.adopt(&request.container_id)?;
        let dormant = dormant(&container)?;
        if request.realtime_ns != 0 {
            self.guest.set_clock(request.realtime_ns)?;
        }
        let stdio = request.stdio.as_ref().unwrap_or_default();
        let (streams, ()) = tokio::try_join!(self.claim_streams(stdio), self.guest.settle_network())?;
        let machine = rustix::system::uname();
        let hostname =
            if request.hostname.is_empty() { machine.nodename().to_bytes() } else { request.hostname.as_bytes() };
        name_host(container.first.pid(), hostname).map_err(failed("set its host name"))?;
        files::replace(&self.places.files.join(&container.place), &request.files)?;
        if !request.resources.is_empty() {
            self.limit(&container, &request.resources)?;
        }
        dormant.streams.hand_over(streams).map_err(failed("hand over its streams"))?;
        *dormant.rest() = Rest::Adopted { clone_process: request.clone_process.clone() };
        Ok(container.first.pid())
    }

    /// Lets an adopted container go on. Nothing of it is left running if that fails.
    pub(super) async fn wake(&self, id: &str, container: &Container) -> Result<(), Refusal> {
        let dormant = dormant(container)?;
        let rest = std::mem::replace(&mut *dormant.rest(), Rest::Awake);
        let Rest::Adopted { clone_process } = rest else {
            return Err(Refusal::new(Kind::FailedPrecondition, "the process was started already"));
        };
        // The caller may give up waiting, too.
        let mut untold = Untold(Some(container));
        let woken = async {
            self.thaw(id)?;
            if clone_process.is_empty() { Ok(()) } else { self.tell_of_adoption(id, clone_process).await }
        };
        let seconds = TELL_WITHIN.as_secs();
        let too_long =
            || format!("the command that tells the container of having been cloned took more than {seconds} s");
        let woken = timeout(TELL_WITHIN, woken).await;
        match woken.unwrap_or_else(|_elapsed| Err(Refusal::new(Kind::DeadlineExceeded, too_long()))) {
            Ok(()) => {
                untold.0 = None;
                Ok(())
            }
            Err(refusal) => {
                drop(untold);
                container.first.wait().await?;
                Err(refusal)
            }
        }
    }

    /// Runs a process in a container to its end.
    async fn tell_of_adoption(&self, id: &str, process: Vec<u8>) -> Result<(), Refusal> {
        let (container_id, exec_id) = (id.to_owned(), CLONE_PROCESS.to_owned());
        self.make_process(&CreateProcessRequest { container_id, exec_id, process, ..Default::default() }).await?;
        let process = self.containers.process(id, CLONE_PROCESS)?;
        process.start().await?;
        let code = process.wait().await?.code;
        self.containers.remove(id, CLONE_PROCESS);
        if code == 0 {
            return Ok(());
        }
        let message = format!("the command that tells the container of having been cloned exited with code {code}");
        Err(Refusal::new(Kind::FailedPrecondition, message))
    }
}

/// A container that goes on and wasn't told yet that it was cloned: it is killed when this is dropped.
struct Untold<'a>(Option<&'a Container>);

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.map(|container| container.cgroup.kill()) {
            eprintln!("agent: kill a container that wasn't told that it was cloned: {error}");
        }
    }
}

/// Refuses to capture what clones can't share, of a container that is stopped.
fn check_rest(container: &Container) -> Result<(), Refusal> {
    let refused = |message: String| Err(Refusal::new(Kind::FailedPrecondition, message));
    let pid = container.first.pid();
    // An empty cgroup is stopped as well.
    if !container.cgroup.processes().map_err(failed("list its processes"))?.contains(&pid) {
        return refused("its process has just exited".to_owned());
    }
    // It would be told of in every clone.
    if oom_kills(container) > 0 {
        return refused("a process of it was killed for lack of memory".to_owned());
    }
    match find_outward(pid).map_err(failed("look at its connections"))? {
        Some(remote) => refused(format!("it has a connection to {remote}, which clones can't share")),
        None => Ok(()),
    }
}

fn dormant(container: &Container) -> Result<&Dormant, Refusal> {
    let message = "the container wasn't made to be captured";
    container.dormant.as_deref().ok_or_else(|| Refusal::new(Kind::FailedPrecondition, message))
}

/// Sets the host name in a process's namespace.
fn name_host(pid: i32, name: &[u8]) -> std::io::Result<()> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/uts"))?;
    let set = || Ok(rustix::system::sethostname(name)?);
    inside(namespace.as_fd(), LinkNameSpaceType::HostNameAndNISDomainName, set)
}
