//! Making bakes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use agent_proto::Empty;
use bake::{Draft, Extent, Key, Level, PublishError, Published, Reason, StoreError};
use tokio::time::{Instant, sleep, timeout};
use ttrpc::context::Context;
use vmm_api::{Boot, Disks, FailureKind, Host, MemoryExtent, Reply, Request, Shape};

use crate::console::last_lines;
use crate::error::ErrorKind;
use crate::image::{Lookup, lookup};
use crate::launch::Attachments;
use crate::machine::{Machine, MachineError};
use crate::run_directory::RunDirectory;
use crate::vm::{Agent, CONSOLE_LINES, StartError, cause, logs, open, refusal};
use crate::vmm::{Process, VmmError};

/// How long writing out a guest may take.
const CAPTURE_WITHIN: Duration = Duration::from_secs(120);
/// How long the guest may take to let go of a connection that was closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const CLOSE_POLL: Duration = Duration::from_millis(20);

/// What came of a request for a bake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baked {
    /// The bake's key.
    pub key: Key,
    /// Whether it was there before, and nothing was done.
    pub already_there: bool,
}

/// What is being done about a bake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BakeStep {
    /// A guest boots, and its agent makes it fit to be captured.
    Boot,
    /// It is written out.
    Capture,
    /// Its digests are computed and it gets its name.
    Publish,
}

/// A bake could not be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum BakeError {
    /// Bakes aren't wanted.
    #[error("baking is off (config); set `bake.enabled = true` to make bakes")]
    Off,
    /// The host can't run VMs.
    #[error("this host can't run virtual machines")]
    Machine(#[source] MachineError),
    /// The VM to be captured could not be started.
    #[error("the virtual machine to be captured could not be started")]
    Start(#[source] StartError),
    /// The VMM could not write the guest out.
    #[error("the virtual machine could not be captured")]
    Capture(#[source] VmmError),
    /// The store.
    #[error("the bake store {} can't be written; check that the disk isn't full", path.display())]
    Store {
        /// The store's directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The bake is no good.
    #[error("the bake could not be published")]
    Publish(#[source] PublishError),
    /// A directory for the VM's logs.
    #[error("cannot use the directory {} for the virtual machine's logs", path.display())]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl BakeError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Off => ErrorKind::FailedPrecondition,
            Self::Machine(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Capture(error) => error.kind(),
            Self::Store { .. } | Self::Publish(_) | Self::Directory { .. } => ErrorKind::Internal,
        }
    }
}

/// Makes the base bake of a machine: boots it without disks, lets the agent clean up, and captures it. Does nothing
/// if a good one is there.
pub async fn bake_base(machine: &Machine) -> Result<Baked, BakeError> {
    bake_base_by_steps(machine, |_step| {}).await
}

/// The same, and tells of each step as it begins.
pub async fn bake_base_by_steps(machine: &Machine, mut tell: impl FnMut(BakeStep)) -> Result<Baked, BakeError> {
    match lookup(machine).await.map_err(BakeError::Machine)? {
        Lookup::Hit(bake, _) => return Ok(Baked { key: bake.key, already_there: true }),
        Lookup::Miss(Reason::Off) => return Err(BakeError::Off),
        Lookup::Miss(reason) => tracing::info!(%reason, "baking"),
    }
    let facts = machine.facts().await.map_err(BakeError::Machine)?;
    let store_failed = |source| BakeError::Store { path: machine.store.directory().to_owned(), source };
    let draft = machine.store.draft().map_err(store_failed)?;
    let path = machine.run.join("bake").join(draft.name());
    let directory = RunDirectory::create(&path).map_err(|source| BakeError::Directory { path, source })?;
    tell(BakeStep::Boot);
    let process = boot_and_prepare(machine, &directory).await?;
    tell(BakeStep::Capture);
    let extents = capture(&process, &draft).await?;
    process.stop().await;
    tell(BakeStep::Publish);
    let publish = move || draft.publish(facts, Level::Base, extents);
    let published = match tokio::task::spawn_blocking(publish).await {
        Ok(result) => result.map_err(BakeError::Publish)?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    Ok(Baked { key: published.key(), already_there: matches!(published, Published::AlreadyThere(_)) })
}

/// Boots a VM without disks and returns when its agent has made it fit to be captured.
async fn boot_and_prepare(machine: &Machine, directory: &RunDirectory) -> Result<Process, BakeError> {
    let (logs, console) = logs(directory).map_err(BakeError::Start)?;
    let (kernel, initrd) = (open(&machine.kernel), open(&machine.initrd));
    let (kernel, initrd) = (kernel.map_err(BakeError::Start)?, initrd.map_err(BakeError::Start)?);
    let start_failed = |error| BakeError::Start(refusal(error));
    let process = Process::spawn(&machine.vmm, logs).map_err(|error| BakeError::Start(StartError::Spawn(error)))?;
    let mut attachments = Attachments::default();
    let request = Request::Boot(Boot {
        host: Host {
            kvm: attachments.attach(&*machine.kvm),
            console: attachments.attach(&console),
            network: vmm_api::Network::New,
            serves_files: false,
        },
        // Whatever the number that a restored machine is to have.
        shape: Shape { vcpus: 1, ..machine.shape },
        kernel: attachments.attach(&kernel),
        initrd: attachments.attach(&initrd),
        cmdline: machine.cmdline.clone(),
        disks: Disks::default(),
    });
    process.ask(&request, &attachments, machine.answer_within).await.map_err(start_failed)?;
    let agent = Agent::connect(&process).map_err(BakeError::Start)?;
    let nothing = Empty::new();
    let prepared = agent.client.prepare_capture(Context::default(), &nothing);
    match timeout(machine.answer_within, prepared).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(BakeError::Start(cause(&process, error, &console).await)),
        Err(_elapsed) => {
            let (seconds, lines) = (machine.answer_within.as_secs(), last_lines(&console, CONSOLE_LINES));
            return Err(BakeError::Start(StartError::AgentSilent { seconds, lines }));
        }
    }
    agent.close();
    Ok(process)
}

/// Writes the guest out. The VMM refuses as long as a connection is open, and the guest may take a moment to let go
/// of the one that was just closed.
async fn capture(process: &Process, draft: &Draft) -> Result<Vec<Extent>, BakeError> {
    let deadline = Instant::now() + CLOSE_WITHIN;
    loop {
        let mut attachments = Attachments::default();
        let request =
            Request::Capture { state: attachments.attach(&draft.state), memory: attachments.attach(&draft.memory) };
        match process.ask(&request, &attachments, CAPTURE_WITHIN).await {
            Ok(Reply::Captured { extents, .. }) => return Ok(extents.iter().map(extent).collect()),
            Ok(_) => return Err(BakeError::Capture(VmmError::Unexpected)),
            Err(VmmError::Refused { kind: FailureKind::Invalid, .. }) if Instant::now() < deadline => {
                sleep(CLOSE_POLL).await;
            }
            Err(error) => return Err(BakeError::Capture(error)),
        }
    }
}

fn extent(extent: &MemoryExtent) -> Extent {
    Extent { guest_page: extent.guest_page, file_page: extent.file_page, pages: extent.pages }
}
