//! Starting a VM: restored if possible, else booted. Everything the VMM needs is sent at once, the agent's first
//! request included; then one answer is awaited.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_proto::ResumeResponse;
use bake::{Bake, Key, Reason, UnpackError, Written};
use tokio::time::timeout;
use ttrpc::context::Context;
use vmm_api::{Boot, FailureKind, Host, MemoryExtent, MemoryFile, PageRun, Reply, Request, Restore};

use crate::blocking::apart;
use crate::console::last_lines;
use crate::disks::{DiskError, Places, WarmDisk};
use crate::error::chain;
use crate::image::{Image, Lookup};
use crate::kvm::KvmError;
use crate::launch::{Attachments, Launch, LaunchError, Opened};
use crate::machine::Machine;
use crate::run_directory::RunDirectory;
use crate::start_record::{self, Recorder, StartRecord};
use crate::tally::Tally;
use crate::trace::{Owner, Trace};
use crate::vm::agent::{Agent, resume_request};
use crate::vm::error::StartError;
use crate::vm::{Mode, Started, Timeline, Vm};
use crate::vmm::{Answer, Logs, Process, VmmError};

/// Lines of the guest's console that go into messages.
pub(crate) const CONSOLE_LINES: usize = 5;
/// A bad answer of the agent is often only the echo of the VMM's end; so long is that waited for.
const CAUSE_WITHIN: Duration = Duration::from_secs(1);

/// What an attempt starts from.
enum Source<'a> {
    /// With the writable disk that goes with it, if one does.
    Bake(&'a Bake, Option<WarmDisk>),
    Kernel {
        kernel: File,
        initrd: File,
    },
}

/// A VM that runs and whose agent has answered.
struct Answered {
    process: Process,
    agent: Agent,
    timeline: Timeline,
    response: ResumeResponse,
    /// If it was restored from a warm bake.
    disk: Option<WarmDisk>,
}

/// The same, and how it came to that.
struct Ran {
    answered: Answered,
    mode: Mode,
    reason: String,
    bake: Option<Box<Bake>>,
}

impl Ran {
    /// `instead` says why there is no bake, or not a better one.
    fn new(answered: Answered, bake: Option<Box<Bake>>, instead: &[Reason]) -> Self {
        let found = bake.as_ref().map(|bake| format!("bake {}", bake.key));
        let words = found.into_iter().chain(instead.iter().map(ToString::to_string));
        let reason = words.collect::<Vec<_>>().join("; ");
        let mode = bake.as_ref().map_or(Mode::Cold, |bake| Mode::Restored(bake.manifest.subject.level()));
        Self { answered, mode, reason, bake }
    }
}

/// One VM's start, which may take several attempts.
struct Start<'a> {
    machine: &'a Machine,
    launch: &'a Launch,
    files: &'a Opened,
    directory: &'a RunDirectory,
}

pub(super) async fn start(machine: &Machine, launch: &Launch) -> Result<Vm, StartError> {
    let namespace = launch.begin_namespace().map_err(StartError::Launch)?;
    let mut files = Opened::open(launch).map_err(StartError::Launch)?;
    let mut places = Places::default();
    let rootfs = places.put(&mut files.root).map_err(|error| StartError::Launch(LaunchError::Disk(error)))?;
    let directory = RunDirectory::create(&launch.state_dir)
        .map_err(|source| StartError::Directory { path: launch.state_dir.clone(), source })?;
    let image = Image::new(launch.root.layers.clone());
    let found = image.lookup(machine, &launch.warmth, files.root.upper_bytes()).await.map_err(StartError::Machine)?;
    launch.trace.end("bake looked up", Owner::Shim);
    if let Some(namespace) = namespace {
        files.enter(namespace.made().await.map_err(|error| StartError::Launch(LaunchError::Namespace(error)))?);
        launch.trace.end("network namespace made", Owner::Shim);
    }
    let start = Start { machine, launch, files: &files, directory: &directory };
    let Ran { answered, mode, reason, bake } = start.run(found).await?;
    if let Some(bake) = &bake {
        bake.touch();
    }
    let started = Started {
        mode,
        reason,
        bake: bake.as_ref().map(|bake| bake.key),
        timeline: answered.timeline,
        agent_version: answered.response.agent_version,
        kernel_release: answered.response.kernel_release,
    };
    log(launch, &started);
    if let Err(error) = Tally::new(&machine.run).count(mode) {
        tracing::warn!(%error, "a start isn't counted");
    }
    let record = start.record(&started, answered.process.pid());
    Ok(Vm {
        recorder: Recorder::new(record, launch.trace.clone(), directory.file(start_record::FILE)),
        agent: answered.agent,
        process: answered.process.into(),
        warm_disk: answered.disk.into(),
        started,
        rootfs,
        places: places.into(),
        _bake: bake.map(|bake| bake.into_pin()),
        _directory: directory,
    })
}

/// Notes the phases of an attempt. The VMM counts from its own beginning, which is taken for the moment it was spawned.
fn note(trace: &Trace, began: Instant, timeline: &Timeline) {
    let Timeline { spawned_us, opened_us, mapped_us, wired_us, running_us, answered_us } = *timeline;
    let at = |us| began + Duration::from_micros(us);
    trace.end_at("VMM spawned", Owner::Shim, at(spawned_us));
    for (name, us) in [("opened", opened_us), ("mapped", mapped_us), ("wired", wired_us), ("running", running_us)] {
        trace.end_at(name, Owner::Vmm, at(spawned_us.saturating_add(us).min(answered_us)));
    }
    trace.end_at("agent answered", Owner::Guest, at(answered_us));
}

fn log(launch: &Launch, started: &Started) {
    let Timeline { spawned_us, opened_us, mapped_us, wired_us, running_us, answered_us } = started.timeline;
    tracing::info!(
        id = launch.id,
        mode = %started.mode,
        reason = started.reason,
        spawn_to_answer_us = answered_us,
        spawned_us,
        opened_us,
        mapped_us,
        wired_us,
        running_us,
        "start"
    );
}

impl Start<'_> {
    /// Restores from the bake that was found; if that fails as a bad bake would have it, from the one it lies over; else
    /// boots. Once another attempt has answered, the bakes that failed are to blame, and leave the store: what keeps all
    /// attempts from answering is something else.
    async fn run(&self, found: Lookup) -> Result<Ran, StartError> {
        let (mut bake, mut instead) = match found {
            Lookup::Hit { bake, instead } => (Some(bake), instead),
            Lookup::Miss(reasons) => (None, reasons),
        };
        let mut failed: Vec<(Key, String)> = Vec::new();
        loop {
            let disk = match &bake {
                Some(bake) => self.warm_disk(bake).await,
                None => Ok(None),
            };
            let disk = match disk {
                Ok(disk) => disk,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the disk of a warm bake can't be made");
                    let given_up = bake.take();
                    match (&given_up, &error) {
                        (Some(bake), DiskError::Unpack { source: UnpackError::Malformed { .. }, .. }) => {
                            failed.push((bake.key, chain(&error)));
                        }
                        _ => instead.push(Reason::NeverWarm { why: chain(&error) }),
                    }
                    bake = given_up.and_then(|bake| bake.over);
                    continue;
                }
            };
            let attempted = match &bake {
                Some(bake) => self.attempt(Source::Bake(bake, disk)).await,
                None => self.boot().await,
            };
            let error = match attempted {
                Ok(answered) => {
                    for (key, message) in failed {
                        instead.push(self.machine.store.quarantine(key, message));
                    }
                    return Ok(Ran::new(answered, bake, &instead));
                }
                Err(error) => error,
            };
            let Some(given_up) = bake.take_if(|_| error.blames_the_bake()) else { return Err(error) };
            self.launch.trace.end("bake given up", Owner::Vmm);
            tracing::warn!(key = %given_up.key, error = chain(&error), "a bake is given up");
            failed.push((given_up.key, chain(&error)));
            bake = given_up.over;
        }
    }

    async fn boot(&self) -> Result<Answered, StartError> {
        let source = Source::Kernel { kernel: open(&self.machine.kernel)?, initrd: open(&self.machine.initrd)? };
        self.attempt(source).await
    }

    /// What a warm bake's guest has written, as the disk of this one.
    async fn warm_disk(&self, bake: &Bake) -> Result<Option<WarmDisk>, DiskError> {
        let (Some(packed), Some(upper), Some(path)) = (&bake.upper, bake.manifest.upper, &self.launch.root.upper)
        else {
            return Ok(None);
        };
        let path = path.clone();
        let packed =
            packed.try_clone().map_err(|source| DiskError::Open { role: "bake", path: path.clone(), source })?;
        let disk = apart(move || WarmDisk::make(&packed, &upper, &path)).await?;
        self.launch.trace.end("warm disk made", Owner::Shim);
        Ok(Some(disk))
    }

    async fn attempt(&self, source: Source<'_>) -> Result<Answered, StartError> {
        let (logs, console) = logs(self.directory)?;
        let began = Instant::now();
        let process = Process::spawn(&self.machine.vmm, logs).map_err(StartError::Spawn)?;
        let spawned_us = micros(began);
        let running = self.send(&process, &source, &console)?;
        let within = self.machine.answer_within;
        let agent = match Agent::connect(&process) {
            Ok(agent) => agent,
            Err(error) => {
                // It has ended before it could be asked; what it answered says why.
                process.answer(running, within).await.map_err(refusal)?;
                return Err(error);
            }
        };
        let request = resume_request(&self.launch.hostname, self.machine.shape).map_err(StartError::Io)?;
        let resumed = async {
            let answer = agent.client.resume(Context::default(), &request).await;
            let answered_us = micros(began);
            match answer {
                Ok(response) => Ok((response, answered_us)),
                Err(error) => Err(cause(&process, error, &console).await),
            }
        };
        let running = async { process.answer(running, within).await.map_err(refusal) };
        // The VMM's own word counts before what follows from it.
        let joined = async { tokio::try_join!(biased; running, resumed, self.enter_cgroup(&process)) };
        let (reply, (response, answered_us), ()) = timeout(within, joined).await.map_err(|_elapsed| {
            StartError::AgentSilent { seconds: within.as_secs(), lines: last_lines(&console, CONSOLE_LINES) }
        })??;
        let Reply::Running(phases) = reply else { return Err(StartError::Vmm(VmmError::Unexpected)) };
        if let Source::Bake(bake, _) = &source {
            let request = Request::CopyAhead { pages: page_runs(&bake.manifest.written_later) };
            // Whether it is done shows in nothing but time.
            let _answer = process.send(&request, &Attachments::default());
        }
        let timeline = Timeline {
            spawned_us,
            opened_us: phases.opened_us,
            mapped_us: phases.mapped_us,
            wired_us: phases.wired_us,
            running_us: phases.running_us,
            answered_us,
        };
        note(&self.launch.trace, began, &timeline);
        if self.launch.cgroup.is_some() {
            self.launch.trace.end("cgroup entered", Owner::Shim);
        }
        let disk = match source {
            Source::Bake(_, disk) => disk,
            Source::Kernel { .. } => None,
        };
        Ok(Answered { process, agent, timeline, response, disk })
    }

    /// Sends the one request that makes the VM.
    fn send(&self, process: &Process, source: &Source<'_>, console: &File) -> Result<Answer, StartError> {
        let mut attachments = Attachments::default();
        let host = Host {
            kvm: attachments.attach(&*self.machine.kvm),
            console: attachments.attach(console),
            network: self.files.network(&mut attachments),
            serves_files: self.launch.serves_files,
        };
        let request = match source {
            Source::Bake(bake, warm) => Request::Restore(Restore {
                host,
                shape: self.machine.shape,
                state: attachments.attach(&bake.state),
                memory: memory_files(bake, &mut attachments),
                written: page_runs(&bake.manifest.written),
                disks: self.files.root.attach(warm.as_ref(), &mut attachments),
            }),
            Source::Kernel { kernel, initrd } => Request::Boot(Boot {
                host,
                shape: self.machine.shape,
                kernel: attachments.attach(kernel),
                initrd: attachments.attach(initrd),
                cmdline: self.machine.cmdline.clone(),
                disks: self.files.root.attach(None, &mut attachments),
            }),
        };
        process.send(&request, &attachments).map_err(StartError::Vmm)
    }

    fn record(&self, started: &Started, pid: i32) -> StartRecord {
        StartRecord {
            version: start_record::VERSION,
            namespace: self.launch.namespace.clone(),
            id: self.launch.id.clone(),
            joined: false,
            mode: started.mode,
            reason: started.reason.clone(),
            bake: started.bake,
            memory_bytes: self.machine.shape.total_bytes(),
            vcpus: self.machine.shape.vcpus,
            pid,
            agent_version: started.agent_version.clone(),
            kernel_release: started.kernel_release.clone(),
            began_unix_us: self.launch.trace.began_unix_us(),
            phases: Vec::new(),
        }
    }

    async fn enter_cgroup(&self, process: &Process) -> Result<(), StartError> {
        let Some(cgroup) = &self.launch.cgroup else { return Ok(()) };
        let (file, pid) = (cgroup.join("cgroup.procs"), process.pid().to_string());
        // May wait for a grace period of the kernel's.
        let written = tokio::task::spawn_blocking(move || std::fs::write(file, pid)).await;
        written
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|source| StartError::Cgroup { path: cgroup.clone(), source })
    }
}

pub(crate) fn open(path: &Path) -> Result<File, StartError> {
    File::open(path).map_err(|source| StartError::Open { path: path.to_owned(), source })
}

/// The VM's logs, and the console's file once more.
pub(crate) fn logs(directory: &RunDirectory) -> Result<(Logs, File), StartError> {
    let open = || {
        let console = directory.log("console.log")?;
        let logs = Logs { vmm: directory.log("vmm.log")?, console: Some(console.try_clone()?) };
        Ok((logs, console))
    };
    open().map_err(|source| StartError::Directory { path: directory.path().to_owned(), source })
}

/// An agent's connection fails before the reason for it is known: the VMM's end says more.
pub(crate) async fn cause(process: &Process, error: ttrpc::Error, console: &File) -> StartError {
    match timeout(CAUSE_WITHIN, process.exited().wait()).await {
        Ok(exit) => StartError::Vmm(VmmError::Died { exit }),
        Err(_alive) => StartError::Agent { lines: last_lines(console, CONSOLE_LINES), source: Box::new(error) },
    }
}

pub(crate) fn refusal(error: VmmError) -> StartError {
    match error {
        VmmError::Refused { kind: FailureKind::Kvm, message } => StartError::Kvm(KvmError::Lacking { message }),
        other => StartError::Vmm(other),
    }
}

/// The memory files of a bake and of what it lies over, lowest first.
pub(crate) fn memory_files<'a>(bake: &'a Bake, attachments: &mut Attachments<'a>) -> Vec<MemoryFile> {
    let memory_file = |bake: &'a Bake| MemoryFile {
        file: attachments.attach(&bake.memory),
        extents: bake.manifest.extents.as_slice().iter().map(memory_extent).collect(),
    };
    bake.stack().into_iter().map(memory_file).collect()
}

fn page_runs(written: &Written) -> Vec<PageRun> {
    let run = |run: &bake::Run| PageRun { guest_page: run.guest_page, pages: run.pages };
    written.as_slice().iter().map(run).collect()
}

pub(crate) fn memory_extent(extent: &bake::Extent) -> MemoryExtent {
    MemoryExtent { guest_page: extent.guest_page, file_page: extent.file_page, pages: extent.pages }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
