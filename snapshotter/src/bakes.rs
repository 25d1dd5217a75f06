//! The bake builder: makes the bakes that shims ask for, one at a time and at low priority.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use supermachine::daemon::RequestBakeRequest;
use supermachine::{BakeOrder, Baked, Baker, Claim, Machine, OrderError, Store};
use supermachine_config::Config;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

/// How often what can't be made is tried within a minute: a bad image is not to keep the builder from others.
const TRIES: usize = 2;
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// And no sooner than after so many times as long as it took.
const TRY_AGAIN_FACTOR: u32 = 10;

/// Most bakes that wait to be made. Who finds the queue full asks again at the next start.
const MAX_QUEUED: usize = 64;

/// Niceness of the builder's thread, which the machines it starts inherit.
const NICENESS: i32 = 19;

/// Asks the builder. Clones ask the same one.
#[derive(Debug, Clone)]
pub(crate) struct Bakes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    /// On the bake store; without it none are made here.
    claim: Option<Claim>,
    state: Mutex<State>,
    /// Counts the requests, and tells the builder of each; `None` tells it to stop.
    wake: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    queued: VecDeque<BakeOrder>,
    making: Option<BakeOrder>,
    /// What could not be made, and until when that counts: the newest first.
    failed: VecDeque<(BakeOrder, Instant)>,
}

impl State {
    /// Notes what could not be made.
    fn note_failure(&mut self, order: BakeOrder, took: Duration) {
        self.failed.truncate(MAX_QUEUED - 1);
        self.failed.push_front((order, Instant::now() + TRY_AGAIN_AFTER.max(took * TRY_AGAIN_FACTOR)));
    }

    /// Whether that which is ordered was tried in vain too often lately.
    fn is_refused(&self, order: &BakeOrder) -> bool {
        let now = Instant::now();
        let counting = self.failed.iter().filter(|(_, until)| *until > now);
        counting.filter(|(failed, _)| failed.is_for_the_same(order)).count() >= TRIES
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It will be made, or is being made.
    Queued,
    /// It is there.
    Present,
    /// It could not be made, and isn't tried again yet.
    Failed,
    /// Bakes are switched off, or another daemon makes them.
    Off,
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

/// Claims the bake store, if bakes are to be made. Containers start without bakes as well.
fn claim(config: &Config) -> Option<Claim> {
    if !config.bake.enabled {
        info!("bakes are switched off: every virtual machine boots");
        return None;
    }
    let path = config.paths.bakes.display();
    match Store::new(config.paths.bakes.clone(), &config.paths.run).claim() {
        Ok(Some(claim)) => Some(claim),
        Ok(None) => {
            error!(
                "another supermachine-snapshotter makes bakes in {path}, this one makes none: stop it, or set `paths.bakes`"
            );
            None
        }
        Err(failure) => {
            error!(error = supermachine::chain(&failure), "no bakes are made in {path}");
            None
        }
    }
}

impl Bakes {
    /// Starts the builder.
    pub(crate) fn start(config: Config) -> std::io::Result<(Self, Builder)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (wake, woken) = watch::channel(Some(0));
        let claim = claim(&config);
        let bakes = Self(Arc::new(Shared { config, claim, state: Mutex::default(), wake }));
        let builder = bakes.clone();
        let thread = std::thread::Builder::new().name("bakes".to_owned()).spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
                debug!(%error, "the builder's priority can't be lowered");
            }
            runtime.block_on(builder.work(woken));
            // Reading layers for a bake that was given up may take long yet.
            runtime.shutdown_background();
        })?;
        Ok((bakes, Builder(thread)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a bake unless it is there.
    pub(crate) async fn request(&self, request: RequestBakeRequest) -> Result<Asked, OrderError> {
        let order = BakeOrder::new(request, &self.0.config.vm)?;
        if self.0.claim.is_none() {
            return Ok(Asked::Off);
        }
        if let Ok(machine) = order.machine(&self.0.config)
            && order.is_fulfilled(&machine).await
        {
            return Ok(Asked::Present);
        }
        let mut state = self.lock();
        if state.is_refused(&order) {
            return Ok(Asked::Failed);
        }
        let is_known = state.making.iter().chain(&state.queued).any(|known| known.is_for_the_same(&order));
        if !is_known && state.queued.len() < MAX_QUEUED {
            state.queued.push_back(order);
            self.0.wake.send_modify(|requests| *requests = requests.map(|number| number.wrapping_add(1)));
        }
        Ok(Asked::Queued)
    }

    /// Stops the builder; a bake that is being made is given up.
    pub(crate) fn close(&self) {
        self.0.wake.send_replace(None);
    }

    async fn work(&self, mut woken: watch::Receiver<Option<u64>>) {
        self.prepare().await;
        loop {
            let next = self.next();
            let Some(order) = next else {
                if woken.changed().await.is_err() || woken.borrow_and_update().is_none() {
                    return;
                }
                continue;
            };
            let (mut stop, began) = (woken.clone(), Instant::now());
            let is_made = tokio::select! {
                is_made = self.make(&order) => is_made,
                _ = stop.wait_for(Option::is_none) => return,
            };
            let mut state = self.lock();
            if let Some(made) = state.making.take().filter(|_| !is_made) {
                state.note_failure(made, began.elapsed());
            }
        }
    }

    fn next(&self) -> Option<BakeOrder> {
        let mut state = self.lock();
        state.making = state.queued.pop_front();
        state.making.clone()
    }

    /// Sweeps away what a crashed builder left, and asks for the bake that most containers will want.
    async fn prepare(&self) {
        if self.0.claim.is_none() {
            return;
        }
        match Machine::load(&self.0.config) {
            Err(error) => {
                warn!(error = supermachine::chain(&error), "no bake is made: this host can't run virtual machines")
            }
            Ok(machine) => {
                // Beginning a bake sweeps; this one is given up at once.
                if let Err(error) = machine.store().draft() {
                    warn!(error = supermachine::chain(&error), "the bake store can't be written");
                }
                machine.layer_digests().sweep();
                if self.0.config.bake.ahead
                    && let Err(error) = self.request(RequestBakeRequest::default()).await
                {
                    error!(error = supermachine::chain(&error), "the configured machine can't be baked");
                }
            }
        }
    }

    /// Answers whether it is there now. A failure is final until somebody asks again.
    async fn make(&self, order: &BakeOrder) -> bool {
        let BakeOrder { memory, vcpus, .. } = *order;
        let (layers, is_warm) = (order.image.layers().len(), order.container.is_some());
        let machine = match order.machine(&self.0.config) {
            Ok(machine) => machine,
            Err(error) => {
                warn!(%memory, vcpus, error = supermachine::chain(&error), "no bake: this host can't run it");
                return false;
            }
        };
        let start = Instant::now();
        let mut baker = Baker::new(&machine);
        let baked = order.fulfil(&mut baker).await;
        machine.layer_digests().sweep();
        match &baked {
            Ok(Baked { key, already_there: true }) => {
                info!(%memory, vcpus, layers, is_warm, %key, "the bake is there already")
            }
            Ok(Baked { key, .. }) => info!(%memory, vcpus, layers, is_warm, %key, took = ?start.elapsed(), "baked"),
            Err(error) => {
                let error = supermachine::chain(error);
                warn!(%memory, vcpus, layers, is_warm, error, "baking failed; it is tried again when asked for");
            }
        }
        baked.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(layer: &str) -> BakeOrder {
        let request = RequestBakeRequest { layers: vec![layer.to_owned()], ..Default::default() };
        BakeOrder::new(request, &Config::defaults().unwrap().vm).unwrap()
    }

    #[test]
    fn what_fails_again_and_again_is_refused_and_nothing_else() {
        let mut state = State::default();
        for failures in 0..TRIES {
            assert!(!state.is_refused(&order("/bad")), "after {failures}");
            state.note_failure(order("/bad"), Duration::ZERO);
        }
        assert!(state.is_refused(&order("/bad")));
        assert!(!state.is_refused(&order("/good")));
        for _ in 0..2 * MAX_QUEUED {
            state.note_failure(order("/worse"), Duration::ZERO);
        }
        assert!(state.failed.len() <= MAX_QUEUED);
        // What keeps others waiting for two minutes each time is not tried every two minutes.
        state.note_failure(order("/slow"), Duration::from_secs(120));
        assert!(state.failed[0].1 > Instant::now() + Duration::from_secs(1000));
    }
}
