//! `bake`: makes the bake of an image now, or the base bake of a machine.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use supermachine::daemon::{DaemonError, FindLayersRequest, connect};
use supermachine::{BakeError, BakeStep, Baker, Image, Key, Machine, MachineError, StoreError};
use supermachine_config::ConfigError;
use tokio::signal::ctrl_c;

use super::rm::{RmError, in_use};
use crate::arguments;
use crate::bakes::short;
use crate::containerd::{Containerd, ContainerdError, normalize};
use crate::host::Host;
use crate::output::{OutputError, show};

/// How often the progress display moves.
const TICK: Duration = Duration::from_millis(100);

/// There is no bake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BakeCommandError {
    #[error(transparent)]
    Shape(#[from] ConfigError),
    #[error(transparent)]
    Machine(#[from] MachineError),
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
}

pub(crate) async fn run(host: &Host, options: arguments::Bake) -> Result<(), BakeCommandError> {
    let machine = machine(host, &options)?;
    let began = Instant::now();
    let progress = Progress::begin();
    let made = async {
        let (image, programs) = match &options.image {
            Some(name) => find(host, &options, &normalize(name), &progress).await?,
            None => (Image::default(), Vec::new()),
        };
        // Where none is made, none is removed.
        if options.force && machine.is_baking() {
            remove(host, image.key(&machine).await?)?;
        }
        let mut baker = Baker::new(&machine).telling(|step| progress.tell(message(step)));
        Ok(baker.image(&image, &programs).await?)
    };
    // A bake that is given up leaves nothing: what it was made in is dropped.
    let baked = tokio::select! {
        baked = made => baked,
        Ok(()) = ctrl_c() => Err(BakeCommandError::Interrupted),
    };
    progress.end();
    let baked = baked?;
    let shape = machine.shape();
    let made = Made {
        key: baked.key,
        already_there: baked.already_there,
        memory_bytes: shape.memory_bytes,
        vcpus: shape.room(),
        took_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    };
    Ok(show(options.format.json, &made, text)?)
}

/// An image that containerd has, and the programs that are to be read for its bake.
async fn find(
    host: &Host,
    options: &arguments::Bake,
    name: &str,
    progress: &Progress,
) -> Result<(Image, Vec<String>), BakeCommandError> {
    let namespace = &options.namespace;
    progress.tell("asking for the image");
    let image = Containerd::connect(&options.address, namespace).await?.image(name).await?;
    let request = FindLayersRequest {
        containerd_namespace: namespace.clone(),
        chain_id: image.chain_id,
        ..FindLayersRequest::default()
    };
    progress.tell("waiting for its layers");
    let daemon = connect(&host.config.paths.daemon_socket).await?;
    let found = daemon.find_layers(ttrpc::context::Context::default(), &request).await;
    let layers = found.map_err(|error| not_found(error, name, namespace))?.layers;
    let programs = if options.cmd.is_empty() { image.programs } else { options.cmd.clone() };
    Ok((Image::new(layers.into_iter().map(Into::into).collect()), programs))
}

fn not_found(error: ttrpc::Error, name: &str, namespace: &str) -> BakeCommandError {
    match error {
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND => {
            BakeCommandError::NotUnpacked { name: name.to_owned(), namespace: namespace.to_owned() }
        }
        other => BakeCommandError::Layers(Box::new(other)),
    }
}

/// The machine of the shape that is asked for.
fn machine(host: &Host, options: &arguments::Bake) -> Result<Machine, BakeCommandError> {
    let configured = &host.config.vm;
    let (memory, vcpus) = (options.memory.unwrap_or(configured.memory), options.vcpus.unwrap_or(configured.vcpus));
    Ok(Machine::load(&host.config.clone().with_shape(memory, vcpus, "the command line")?)?)
}

/// Makes room for a new bake. Machines that run keep the old one, so that nothing is done then.
fn remove(host: &Host, key: Key) -> Result<(), BakeCommandError> {
    let is_there = host.store.list()?.iter().any(|entry| entry.key == key);
    if is_there && !host.store.remove(&key)? {
        return Err(BakeCommandError::Replace(Box::new(in_use(host, key))));
    }
    Ok(())
}

fn text(Made { key, already_there, took_us, .. }: &Made) -> String {
    if *already_there {
        return format!("{} is there already\n", short(*key));
    }
    format!("{} made in {}.{} s\n", short(*key), took_us / 1_000_000, took_us % 1_000_000 / 100_000)
}

/// What is being done, on standard error: a moving line on a terminal, else a line for each step.
struct Progress(ProgressBar);

impl Progress {
    fn begin() -> Self {
        let bar = ProgressBar::new_spinner();
        // The default style is taken if this one is wrong.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message("looking for the bake");
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    fn tell(&self, message: &'static str) {
        self.0.set_message(message);
        if self.0.is_hidden() {
            eprintln!("{message}");
        }
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

fn message(step: BakeStep) -> &'static str {
    match step {
        BakeStep::Boot => "booting a guest",
        BakeStep::Read => "reading the image's layers",
        BakeStep::Restore => "mounting them in a guest",
        BakeStep::Prepare => "waiting until its container is ready",
        BakeStep::Capture => "writing it out",
        BakeStep::Publish => "computing digests",
    }
}

#[cfg(test)]
mod tests {
    use supermachine::Subject;

    use super::*;
    use crate::fixture::{Fixture, facts};

    #[test]
    fn what_was_done_is_said() {
        let made = |already_there| Made {
            key: facts().key(),
            already_there,
            memory_bytes: 256 << 20,
            vcpus: 1,
            took_us: 3_450_000,
        };
        let key = short(facts().key());
        assert_eq!(text(&made(true)), format!("{key} is there already\n"));
        assert_eq!(text(&made(false)), format!("{key} made in 3.4 s\n"));
        assert_eq!(serde_json::to_value(made(false)).unwrap()["took_us"], 3_450_000);
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

    #[test]
    fn a_shape_that_no_machine_has_is_refused_by_name() {
        let options = arguments::Bake {
            image: None,
            namespace: "default".to_owned(),
            address: "/nonexistent".into(),
            cmd: Vec::new(),
            memory: Some(supermachine_config::Bytes(1)),
            vcpus: None,
            force: false,
            format: arguments::Format { json: false },
        };
        let error = machine(&Fixture::new().host(), &options).unwrap_err().to_string();
        assert!(error.starts_with("the command line: `vm.memory` is 1; write a multiple of 2M"), "{error}");
    }
}
