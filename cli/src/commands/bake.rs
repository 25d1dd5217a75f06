//! `bake`: makes a bake now: of a machine, of an image, or of a container that runs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use supermachine::daemon::{DaemonError, FindLayersRequest, connect};
use supermachine::{
    BakeError, BakeOrder, BakeStep, Baked, Baker, Image, Key, Level, MachineError, Mode, OrderError, RecordError,
    StartRecord, StoreError, read_wanted,
};
use supermachine_config::ConfigError;
use tokio::signal::ctrl_c;

use super::rm::{RmError, in_use};
use crate::arguments;
use crate::bakes::short;
use crate::containerd::{Containerd, ContainerdError, normalize};
use crate::extra_files::{self, ExtraFilesError};
use crate::host::Host;
use crate::machines::{FindError, MachinesError};
use crate::nerdctl::{Nerdctl, NerdctlError, warm_container};
use crate::output::{OutputError, show};
use crate::progress::Progress;
use crate::sample::{Sample, SampleError};

/// There is no bake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BakeCommandError {
    #[error(transparent)]
    Shape(#[from] ConfigError),
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Machines(#[from] MachinesError),
    #[error(transparent)]
    NoContainer(#[from] FindError),
    #[error("what the start of the container has missed isn't known")]
    Record(#[from] RecordError),
    #[error("what the start of the container has missed can't be made")]
    Order(#[from] OrderError),
    #[error("the container {id} runs in another's machine; name the one that the machine was started for")]
    Joined {
        /// The container.
        id: String,
    },
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Nerdctl(#[from] NerdctlError),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(
        "the image {name} isn't unpacked for our snapshotter; `nerdctl --namespace {namespace} pull --snapshotter \
         supermachine {name}` does that"
    )]
    NotUnpacked {
        /// The image's full name.
        name: String,
        /// containerd's namespace.
        namespace: String,
    },
    #[error(transparent)]
    ExtraFiles(#[from] ExtraFilesError),
    #[error("the image's layers can't be had")]
    Layers(#[source] Box<ttrpc::Error>),
    #[error("the bake that is there can't be replaced")]
    Replace(#[source] Box<RmError>),
    #[error("the bake store can't be used; check the directory that `paths.bakes` names and its disk")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bake(#[from] BakeError),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot print the result")]
    Output(#[from] OutputError),
}

#[derive(Debug, Serialize)]
struct Made {
    key: Key,
    /// Whether it was there before, and nothing was done.
    already_there: bool,
    memory_bytes: u64,
    /// The most that a machine restored from it may have.
    vcpus: u8,
    took_us: u64,
    /// A command that starts a container from it, if it is one's that runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    run: Vec<String>,
}

pub(crate) async fn run(host: &Host, options: arguments::Bake) -> Result<(), BakeCommandError> {
    let progress = Progress::begin("looking for the bake");
    let nerdctl = Nerdctl { address: &options.address, namespace: &options.namespace };
    let sample = Sample::new(nerdctl);
    let task = Task { host, options: &options, nerdctl, progress: &progress };
    // A bake that is given up leaves nothing: what it was made in is dropped.
    let made = tokio::select! {
        made = task.make(&sample) => made,
        Ok(()) = ctrl_c() => Err(BakeCommandError::Interrupted),
    };
    let removed = sample.remove().await;
    progress.end();
    let made = made?;
    removed?;
    Ok(show(options.format.json, &made, text)?)
}

/// What bake is wanted.
enum Wanted {
    Order(BakeOrder),
    /// One that is there.
    There(Made),
}

/// What was asked for.
struct Task<'a> {
    host: &'a Host,
    options: &'a arguments::Bake,
    nerdctl: Nerdctl<'a>,
    progress: &'a Progress,
}

impl Task<'_> {
    async fn make(&self, sample: &Sample<'_>) -> Result<Made, BakeCommandError> {
        let began = Instant::now();
        let Self { host, options, progress, .. } = self;
        let image = match &options.image {
            Some(image) => Some(self.name(image).await?),
            None => None,
        };
        let container = image.as_ref().filter(|_| options.warm.warm).map(|image| warm_container(options, image));
        let run = container.as_ref().map_or_else(Vec::new, |container| [&command()[..], container].concat());
        let order = loop {
            let wanted = match (&options.like, &container) {
                (Some(id), _) => missed(host, host.machines()?.named(id)?)?,
                (None, Some(container)) => {
                    progress.tell("starting a container of the image");
                    let start = sample.start(host, container).await?;
                    let wanted = missed(host, &start)?;
                    sample.remove().await?;
                    warm_only(wanted, &start)?
                }
                (None, None) => Wanted::Order(self.order(image.as_deref()).await?),
            };
            match wanted {
                Wanted::Order(order) => break order,
                Wanted::There(made) if !options.force => return Ok(Made { run, took_us: microseconds(began), ..made }),
                // Asked again, it is missing.
                Wanted::There(made) => remove(host, made.key)?,
            }
        };
        let machine = order.machine(&host.config)?;
        // Where none is made, none is removed.
        if options.force && machine.is_baking() {
            remove(host, order.key(&machine).await?)?;
        }
        let mut baker = Baker::new(&machine).telling(|step| progress.tell(message(step)));
        let Baked { key, already_there } = order.fulfil(&mut baker).await?;
        let shape = machine.shape();
        let (memory_bytes, vcpus) = (shape.memory_bytes, shape.room());
        Ok(Made { key, already_there, memory_bytes, vcpus, took_us: microseconds(began), run })
    }

    /// The full name of the image that a bake is wanted of.
    async fn name(&self, image: &str) -> Result<String, BakeCommandError> {
        let image = self.load(image).await?;
        match &self.options.tag {
            Some(tag) => self.extend(&image, &normalize(tag)).await,
            None => Ok(image),
        }
    }

    /// Makes an image with further files.
    async fn extend(&self, image: &str, name: &str) -> Result<String, BakeCommandError> {
        let arguments::Bake { namespace, address, extra_file, .. } = self.options;
        self.progress.tell("putting files into the image");
        let base = Containerd::connect(address, namespace).await?.documents(image).await?;
        let (files, name) = (extra_file.clone(), name.to_owned());
        let write = move || {
            let mut archive = tempfile::NamedTempFile::new().map_err(ExtraFilesError::Write)?;
            extra_files::write(&base, &files, &name, archive.as_file_mut()).map(|()| archive)
        };
        let archive = match tokio::task::spawn_blocking(write).await {
            Ok(written) => written?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        Ok(self.nerdctl.load(archive.path()).await?)
    }

    /// The full name of an image, which is loaded if it is given as a path.
    async fn load(&self, image: &str) -> Result<String, BakeCommandError> {
        if !["/", "./", "../"].iter().any(|begin| image.starts_with(begin)) {
            return Ok(normalize(image));
        }
        self.progress.tell("loading the image");
        Ok(self.nerdctl.load(Path::new(image)).await?)
    }

    /// The bake of an image that containerd has, or of the machine.
    async fn order(&self, image: Option<&str>) -> Result<BakeOrder, BakeCommandError> {
        let (configured, options) = (&self.host.config.vm, self.options);
        let (memory, vcpus) = (options.memory.unwrap_or(configured.memory), options.vcpus.unwrap_or(configured.vcpus));
        // Refused before anything is looked for.
        let shape = self.host.config.clone().with_shape(memory, vcpus, "the command line")?.vm;
        let (image, programs) = match image {
            Some(name) => self.find(name).await?,
            None => Default::default(),
        };
        Ok(BakeOrder { memory: shape.memory, vcpus: shape.vcpus, image, programs, container: None })
    }

    /// An image that containerd has, and the programs that are to be read for its bake.
    async fn find(&self, name: &str) -> Result<(Image, Vec<String>), BakeCommandError> {
        let arguments::Bake { namespace, address, cmd, .. } = self.options;
        self.progress.tell("asking for the image");
        let image = Containerd::connect(address, namespace).await?.image(name).await?;
        let request = FindLayersRequest {
            containerd_namespace: namespace.clone(),
            chain_id: image.chain_id,
            ..FindLayersRequest::default()
        };
        self.progress.tell("waiting for its layers");
        let daemon = connect(&self.host.config.paths.daemon_socket).await?;
        let found = daemon.find_layers(ttrpc::context::Context::default(), &request).await;
        let layers: Vec<PathBuf> =
            found.map_err(|error| not_found(error, name, namespace))?.layers.into_iter().map(Into::into).collect();
        Ok((Image::new(layers), if cmd.is_empty() { image.programs } else { cmd.clone() }))
    }
}

/// The bake that a start has missed, or the one that it had.
fn missed(host: &Host, start: &StartRecord) -> Result<Wanted, BakeCommandError> {
    if start.joined {
        return Err(BakeCommandError::Joined { id: start.id.clone() });
    }
    let directory = host.config.paths.sandbox(&start.namespace, &start.id);
    match (read_wanted(&directory)?, start.bake) {
        (None, Some(key)) => {
            let (memory_bytes, vcpus) = (start.memory_bytes, start.vcpus);
            Ok(Wanted::There(Made { key, already_there: true, memory_bytes, vcpus, took_us: 0, run: Vec::new() }))
        }
        (wanted, _) => Ok(Wanted::Order(BakeOrder::new(wanted.unwrap_or_default(), &host.config.vm)?)),
    }
}

/// Fails if it is no bake of a container that runs: the start says why.
fn warm_only(wanted: Wanted, start: &StartRecord) -> Result<Wanted, SampleError> {
    let is_warm = match &wanted {
        Wanted::Order(order) => order.container.is_some(),
        Wanted::There(_) => start.mode == Mode::Restored(Level::Warm),
    };
    if is_warm { Ok(wanted) } else { Err(SampleError::NeverWarm { why: start.reason.clone() }) }
}

/// What the arguments of a container that runs follow.
fn command() -> [String; 2] {
    ["nerdctl", "run"].map(str::to_owned)
}

fn microseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn not_found(error: ttrpc::Error, name: &str, namespace: &str) -> BakeCommandError {
    match error {
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND => {
            BakeCommandError::NotUnpacked { name: name.to_owned(), namespace: namespace.to_owned() }
        }
        other => BakeCommandError::Layers(Box::new(other)),
    }
}

/// Makes room for a new bake. Machines that run keep the old one, so that nothing is done then.
fn remove(host: &Host, key: Key) -> Result<(), BakeCommandError> {
    let is_there = host.store.list()?.iter().any(|entry| entry.key == key);
    if is_there && !host.store.remove(&key)? {
        return Err(BakeCommandError::Replace(Box::new(in_use(host, key))));
    }
    Ok(())
}

fn text(Made { key, already_there, took_us, run, .. }: &Made) -> String {
    let made = match already_there {
        true => format!("{} is there already\n", short(*key)),
        false => format!("{} made in {}.{} s\n", short(*key), took_us / 1_000_000, took_us % 1_000_000 / 100_000),
    };
    // Fails for words with a NUL, which none has that came from a command line.
    match shlex::try_join(run.iter().map(String::as_str)) {
        Ok(line) if !run.is_empty() => format!("{made}What is restored from it: {line}\n"),
        _ => made,
    }
}

fn message(step: BakeStep) -> &'static str {
    match step {
        BakeStep::Boot => "booting a guest",
        BakeStep::Read => "reading the image's layers",
        BakeStep::Restore => "mounting them in a guest",
        BakeStep::Prepare => "waiting until its container is ready",
        BakeStep::Capture => "writing it out",
        BakeStep::Rehearse => "seeing what starts write to",
        BakeStep::Publish => "computing digests",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use supermachine::Subject;

    use super::*;
    use crate::fixture::{Fixture, facts, record};

    #[test]
    fn what_was_done_is_said() {
        let made = |already_there| Made {
            key: facts().key(),
            already_there,
            memory_bytes: 256 << 20,
            vcpus: 1,
            took_us: 3_450_000,
            run: Vec::new(),
        };
        let key = short(facts().key());
        assert_eq!(text(&made(true)), format!("{key} is there already\n"));
        assert_eq!(text(&made(false)), format!("{key} made in 3.4 s\n"));
        assert_eq!(serde_json::to_value(made(false)).unwrap()["took_us"], 3_450_000);
        let warm = Made { run: vec!["nerdctl".to_owned(), "two words".to_owned()], ..made(true) };
        assert!(text(&warm).ends_with("\nWhat is restored from it: nerdctl 'two words'\n"), "{}", text(&warm));
    }

    #[test]
    fn an_old_bake_makes_room_unless_it_is_in_use() {
        let fixture = Fixture::new();
        let host = fixture.host();
        let key = facts().key();
        remove(&host, key).unwrap();
        fixture.publish(facts());
        let pin = host.store.open(&Subject::base(facts())).unwrap();
        assert!(matches!(remove(&host, key), Err(BakeCommandError::Replace(_))));
        drop(pin);
        remove(&host, key).unwrap();
        assert!(host.bakes().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_shape_that_no_machine_has_is_refused_by_name() {
        let options = options("supermachine bake --memory 1");
        let host = Fixture::new().host();
        let error = task(&host, &options, &Progress::begin("")).order(None).await.unwrap_err().to_string();
        assert!(error.starts_with("the command line: `vm.memory` is 1; write a multiple of 2M"), "{error}");
    }

    #[tokio::test]
    async fn only_a_path_is_loaded() {
        let options = options("supermachine bake web");
        let host = Fixture::new().host();
        let progress = Progress::begin("");
        assert_eq!(task(&host, &options, &progress).load("web").await.unwrap(), "docker.io/library/web:latest");
        let error = task(&host, &options, &progress).load("./absent.tar").await.unwrap_err();
        assert!(matches!(error, BakeCommandError::Nerdctl(_)), "{error}");
    }

    #[test]
    fn what_a_start_has_missed_is_in_its_directory() {
        let fixture = Fixture::new();
        let (host, start) = (fixture.host(), record("web"));
        fixture.add_machine(&start);
        let Wanted::There(made) = missed(&host, &start).unwrap() else { panic!("it had the best") };
        assert_eq!((made.key, made.already_there), (start.bake.unwrap(), true));
        let file = host.config.paths.sandbox(&start.namespace, &start.id).join("wanted");
        // `vcpus: 2`.
        std::fs::write(&file, [0x10, 2]).unwrap();
        let Wanted::Order(order) = missed(&host, &start).unwrap() else { panic!("it has missed one") };
        assert_eq!(order.vcpus, 2);
        let refused = warm_only(Wanted::Order(order), &start);
        assert!(matches!(refused, Err(SampleError::NeverWarm { why }) if why == start.reason));
        std::fs::write(&file, [0xff]).unwrap();
        assert!(matches!(missed(&host, &start), Err(BakeCommandError::Record(_))));
        let joined = StartRecord { joined: true, ..start };
        assert!(matches!(missed(&host, &joined), Err(BakeCommandError::Joined { .. })));
    }

    fn options(line: &str) -> arguments::Bake {
        let command = arguments::Arguments::try_parse_from(line.split(' ')).unwrap().command;
        let arguments::Command::Bake(options) = command else { panic!("{line}") };
        *options
    }

    fn task<'a>(host: &'a Host, options: &'a arguments::Bake, progress: &'a Progress) -> Task<'a> {
        let nerdctl = Nerdctl { address: Path::new("/nonexistent"), namespace: "default" };
        Task { host, options, nerdctl, progress }
    }
}
