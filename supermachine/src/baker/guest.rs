//! A guest that is about to be captured.

use std::fs::File;
use std::time::Duration;

use agent_proto::{AgentClient, Empty, Layer, PrepareImageRequest};
use bake::{Bake, Draft, Extent, MAX_RUNS, Run};
use tokio::time::{Instant, sleep, timeout};
use ttrpc::context::Context;
use vmm_api::{Boot, Disks, FailureKind, Host, MemoryExtent, MemoryFile, Pages, Reply, Request, Restore, Shape};

use super::BakeError;
use crate::console::last_lines;
use crate::disks;
use crate::launch::Attachments;
use crate::machine::Machine;
use crate::run_directory::RunDirectory;
use crate::vm::{Agent, CONSOLE_LINES, StartError, cause, logs, memory_extent, memory_files, open, refusal};
use crate::vmm::{Logs, Process, VmmError};

/// How long writing out a guest may take.
const CAPTURE_WITHIN: Duration = Duration::from_secs(120);
/// How long the guest may take to let go of a connection that was closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const CLOSE_POLL: Duration = Duration::from_millis(20);

/// A guest whose agent waits: it has not been let go, and never will be.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    machine: &'a Machine,
    process: Process,
    agent: Agent,
    console: File,
}

impl<'a> Guest<'a> {
    /// Boots one without disks.
    pub(super) async fn boot(machine: &'a Machine, directory: &RunDirectory) -> Result<Self, StartError> {
        let (kernel, initrd) = (open(&machine.kernel)?, open(&machine.initrd)?);
        let (logs, console) = logs(directory)?;
        let mut attachments = Attachments::default();
        let request = Request::Boot(Boot {
            host: host(machine, &console, &mut attachments),
            shape: captured(machine.shape),
            kernel: attachments.attach(&kernel),
            initrd: attachments.attach(&initrd),
            cmdline: machine.cmdline.clone(),
            disks: Disks::default(),
        });
        Self::start(machine, logs, &console, &request, &attachments).await
    }

    /// Restores one with these disks.
    pub(super) async fn restore(
        machine: &'a Machine,
        directory: &RunDirectory,
        bake: &Bake,
        disks: &disks::Opened,
    ) -> Result<Self, StartError> {
        let mut attachments = Attachments::default();
        let memory = memory_files(bake, &mut attachments);
        Self::restore_from(machine, directory, &bake.state, memory, attachments, disks).await
    }

    /// Restores one that was captured with these extents, over a bake or alone, and has yet to become a bake itself.
    pub(super) async fn restore_draft(
        machine: &'a Machine,
        directory: &RunDirectory,
        (draft, extents): (&Draft, &[Extent]),
        over: Option<&Bake>,
        disks: &disks::Opened,
    ) -> Result<Self, StartError> {
        let mut attachments = Attachments::default();
        let mut memory = over.map_or_else(Vec::new, |bake| memory_files(bake, &mut attachments));
        let extents = extents.iter().map(memory_extent).collect();
        memory.push(MemoryFile { file: attachments.attach(&draft.memory), extents });
        Self::restore_from(machine, directory, &draft.state, memory, attachments, disks).await
    }

    async fn restore_from<'f>(
        machine: &'a Machine,
        directory: &RunDirectory,
        state: &'f File,
        memory: Vec<MemoryFile>,
        mut attachments: Attachments<'f>,
        disks: &'f disks::Opened,
    ) -> Result<Self, StartError> {
        let (logs, console) = logs(directory)?;
        let request = Request::Restore(Restore {
            host: host(machine, &console, &mut attachments),
            shape: captured(machine.shape),
            state: attachments.attach(state),
            memory,
            written: Vec::new(),
            disks: disks.attach(None, &mut attachments),
        });
        Self::start(machine, logs, &console, &request, &attachments).await
    }

    async fn start(
        machine: &'a Machine,
        logs: Logs,
        console: &File,
        request: &Request,
        attachments: &Attachments<'_>,
    ) -> Result<Self, StartError> {
        let process = Process::spawn(&machine.vmm, logs).map_err(StartError::Spawn)?;
        process.ask(request, attachments, machine.answer_within).await.map_err(refusal)?;
        let agent = Agent::connect(&process)?;
        Ok(Self { machine, process, agent, console: console.try_clone().map_err(StartError::Io)? })
    }

    /// Has the agent mount an image's layers and read what its programs begin with.
    pub(super) async fn prepare_image(&self, layers: Vec<Layer>, programs: &[String]) -> Result<(), StartError> {
        let request = PrepareImageRequest { layers, programs: programs.to_vec(), ..Default::default() };
        self.within(self.agent.client.prepare_image(Context::default(), &request)).await
    }

    /// Its agent.
    pub(super) fn agent(&self) -> &AgentClient {
        &self.agent.client
    }

    /// How long the agent may take over an answer.
    pub(super) fn answer_within(&self) -> Duration {
        self.machine.answer_within
    }

    /// Its size.
    pub(super) fn shape(&self) -> Shape {
        captured(self.machine.shape)
    }

    /// Has the agent make it fit to be captured.
    pub(super) async fn prepare_capture(&self) -> Result<(), StartError> {
        self.within(self.agent.client.prepare_capture(Context::default(), &Empty::new())).await
    }

    /// Awaits an answer of the agent.
    async fn within(&self, answer: impl Future<Output = ttrpc::Result<Empty>>) -> Result<(), StartError> {
        match timeout(self.machine.answer_within, answer).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(cause(&self.process, error, &self.console).await),
            Err(_elapsed) => {
                let seconds = self.machine.answer_within.as_secs();
                Err(StartError::AgentSilent { seconds, lines: last_lines(&self.console, CONSOLE_LINES) })
            }
        }
    }

    /// Which pages of what it was restored from it has written to by now.
    pub(super) async fn list_written(&self) -> Result<Vec<Run>, VmmError> {
        let request = Request::ListWritten { most: MAX_RUNS };
        let reply = self.process.ask(&request, &Attachments::default(), self.machine.answer_within).await?;
        let Reply::Written { runs } = reply else { return Err(VmmError::Unexpected) };
        Ok(runs.iter().map(|run| Run { guest_page: run.guest_page, pages: run.pages }).collect())
    }

    /// Ends the guest, of which nothing is kept.
    pub(super) async fn end(self) {
        self.agent.close();
        self.process.stop().await;
    }

    /// Writes the guest out, which ends it.
    pub(super) async fn capture(self, draft: &Draft, pages: Pages) -> Result<Vec<Extent>, BakeError> {
        self.agent.close();
        let extents = capture(&self.process, draft, pages).await.map_err(BakeError::Capture)?;
        self.process.stop().await;
        Ok(extents)
    }
}

/// The size of a guest that is to be captured: whatever the number of processors and the memory that a restored machine is
/// to have besides.
fn captured(shape: Shape) -> Shape {
    Shape { vcpus: 1, added_bytes: 0, ..shape }
}

/// What a guest that is to be captured has of the host: nothing but where its console goes.
fn host<'f>(machine: &'f Machine, console: &'f File, attachments: &mut Attachments<'f>) -> Host {
    Host {
        kvm: attachments.attach(&*machine.kvm),
        console: attachments.attach(console),
        network: vmm_api::Network::New,
        serves_files: false,
    }
}

/// The VMM refuses as long as a connection is open, and the guest may take a moment to let go of the one that was just
/// closed.
async fn capture(process: &Process, draft: &Draft, pages: Pages) -> Result<Vec<Extent>, VmmError> {
    let deadline = Instant::now() + CLOSE_WITHIN;
    loop {
        let mut attachments = Attachments::default();
        let (state, memory) = (attachments.attach(&draft.state), attachments.attach(&draft.memory));
        match process.ask(&Request::Capture { state, memory, pages }, &attachments, CAPTURE_WITHIN).await {
            Ok(Reply::Captured { extents, .. }) => return Ok(extents.iter().map(extent).collect()),
            Ok(_) => return Err(VmmError::Unexpected),
            Err(VmmError::Refused { kind: FailureKind::Invalid, .. }) if Instant::now() < deadline => {
                sleep(CLOSE_POLL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn extent(extent: &MemoryExtent) -> Extent {
    Extent { guest_page: extent.guest_page, file_page: extent.file_page, pages: extent.pages }
}
