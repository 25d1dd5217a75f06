//! The bake builder: makes the base bakes that shims ask for, one at a time and at low priority.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use supermachine::{Baked, Machine, bake_base};
use supermachine_config::{Bytes, Config};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::error::chain;

/// Niceness of the builder's thread, which the machines it starts inherit.
const NICENESS: i32 = 19;

/// Guest memory and number of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    memory: Bytes,
    vcpus: u8,
}

/// Asks the builder. Clones ask the same one.
#[derive(Debug, Clone)]
pub(crate) struct Bakes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    /// Counts the requests, and tells the builder of each; `None` tells it to stop.
    wake: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<Shape>,
    making: Option<Shape>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It will be made, or is being made.
    Queued,
    /// It is there.
    Present,
    /// Bakes are switched off.
    Off,
}

/// No machine has this shape.
#[derive(Debug, thiserror::Error)]
#[error("no machine has {vcpus} virtual CPUs: ask for 1 to 64")]
pub(crate) struct WrongShape {
    vcpus: u32,
}

/// The builder's thread.
#[derive(Debug)]
pub(crate) struct Builder(JoinHandle<()>);

impl Builder {
    /// Waits for the thread, which ends after [`Bakes::close`].
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            error!("the thread that makes bakes has panicked");
        }
    }
}

impl Bakes {
    /// Starts the builder.
    pub(crate) fn start(config: Config) -> std::io::Result<(Self, Builder)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (wake, woken) = watch::channel(Some(0));
        let bakes = Self(Arc::new(Shared { config, state: Mutex::default(), wake }));
        let builder = bakes.clone();
        let thread = std::thread::Builder::new().name("bakes".to_owned()).spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                debug!(%error, "the builder's priority can't be lowered");
            }
            runtime.block_on(builder.work(woken));
        })?;
        Ok((bakes, Builder(thread)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues the bake of a shape unless it is there. Zeros stand for the configured values.
    pub(crate) async fn request(&self, memory_bytes: u64, vcpus: u32) -> Result<Asked, WrongShape> {
        let configured = &self.0.config.vm;
        let shape = Shape {
            memory: if memory_bytes == 0 { configured.memory } else { Bytes(memory_bytes) },
            vcpus: match u8::try_from(vcpus) {
                Ok(0) => configured.vcpus,
                Ok(vcpus @ 1..=64) => vcpus,
                _ => return Err(WrongShape { vcpus }),
            },
        };
        if !self.0.config.bake.enabled {
            return Ok(Asked::Off);
        }
        if self.is_present(shape).await {
            return Ok(Asked::Present);
        }
        let mut state = self.lock();
        if state.making != Some(shape) && !state.queued.contains(&shape) {
            state.queued.push_back(shape);
            self.0.wake.send_modify(|requests| *requests = requests.map(|number| number.wrapping_add(1)));
        }
        Ok(Asked::Queued)
    }

    /// Whether the store has a bake whose manifest fits. A damaged one is found out, and removed, by whoever restores
    /// from it.
    async fn is_present(&self, shape: Shape) -> bool {
        let Ok(machine) = self.machine(shape) else { return false };
        let Ok(facts) = machine.facts().await else { return false };
        machine.store().open(&facts).is_ok()
    }

    fn machine(&self, shape: Shape) -> Result<Machine, supermachine::MachineError> {
        let mut config = self.0.config.clone();
        config.vm.memory = shape.memory;
        config.vm.vcpus = shape.vcpus;
        Machine::load(&config)
    }

    /// Stops the builder; a bake that is being made is given up.
    pub(crate) fn close(&self) {
        self.0.wake.send_replace(None);
    }

    async fn work(&self, mut woken: watch::Receiver<Option<u64>>) {
        self.prepare().await;
        loop {
            let next = self.next();
            let Some(shape) = next else {
                if woken.changed().await.is_err() || woken.borrow_and_update().is_none() {
                    return;
                }
                continue;
            };
            let mut stop = woken.clone();
            tokio::select! {
                () = self.make(shape) => {}
                _ = stop.wait_for(Option::is_none) => return,
            }
            self.lock().making = None;
        }
    }

    fn next(&self) -> Option<Shape> {
        let mut state = self.lock();
        state.making = state.queued.pop_front();
        state.making
    }

    /// Sweeps away what a crashed builder left, and asks for the bake that most containers will want.
    async fn prepare(&self) {
        if !self.0.config.bake.enabled {
            return info!("bakes are switched off: every virtual machine boots");
        }
        let configured = &self.0.config.vm;
        match self.machine(Shape { memory: configured.memory, vcpus: configured.vcpus }) {
            Err(error) => warn!(error = chain(&error), "no bake is made: this host can't run virtual machines"),
            Ok(machine) => {
                // Beginning a bake sweeps; this one is given up at once.
                if let Err(error) = machine.store().draft() {
                    warn!(error = chain(&error), "the bake store can't be written");
                }
                if self.0.config.bake.ahead
                    && let Err(error) = self.request(0, 0).await
                {
                    error!(error = chain(&error), "the configured machine can't be baked");
                }
            }
        }
    }

    /// A failure is final until somebody asks again.
    async fn make(&self, shape: Shape) {
        let Shape { memory, vcpus } = shape;
        let machine = match self.machine(shape) {
            Ok(machine) => machine,
            Err(error) => return warn!(%memory, vcpus, error = chain(&error), "no bake: this host can't run it"),
        };
        let start = Instant::now();
        match bake_base(&machine).await {
            Ok(Baked { key, already_there: true }) => info!(%memory, vcpus, %key, "the bake is there already"),
            Ok(Baked { key, .. }) => info!(%memory, vcpus, %key, took = ?start.elapsed(), "baked"),
            Err(error) => {
                warn!(%memory, vcpus, error = chain(&error), "baking failed; it is tried again when asked for")
            }
        }
    }
}
