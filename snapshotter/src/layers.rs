//! Turns snapshots' files into squashfs layers, which is what virtual machines mount: in the background after each
//! commit, one at a time and at low priority, or at once when a virtual machine waits for it.

mod attributes;
mod convert;
mod stream;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::directory::Directory;
use crate::record::Id;
use convert::Progress;
pub(crate) use convert::{ConvertError, check_tool};

type Outcome = Result<(), Arc<ConvertError>>;

/// Hands conversions to worker threads.
#[derive(Debug, Clone)]
pub(crate) struct Layers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: Arc<Directory>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    urgent: VecDeque<Id>,
    idle: VecDeque<Id>,
    /// Everything queued or running.
    jobs: HashMap<Id, Job>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Job {
    running: Option<Arc<Progress>>,
    waiting: Vec<oneshot::Sender<Outcome>>,
}

/// The worker threads; they end when [`Layers::close`] is called.
#[derive(Debug)]
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    pub(crate) fn join(self) {
        for worker in self.0 {
            if worker.join().is_err() {
                error!("a conversion thread has panicked");
            }
        }
    }
}

impl Layers {
    /// Starts the workers. One takes every conversion, the others only urgent ones, so that conversions that nobody
    /// waits for take one processor at most.
    pub(crate) fn start(directory: Arc<Directory>) -> std::io::Result<(Self, Workers)> {
        let shared = Arc::new(Shared { directory, state: Mutex::default(), changed: Condvar::new() });
        let count = std::thread::available_parallelism().map_or(2, |count| count.get().max(2));
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("layers-{number}"));
            workers.push(thread.spawn(move || shared.work(number == 0))?);
        }
        Ok((Self(shared), Workers(workers)))
    }

    /// Queues a committed snapshot unless its layer is there.
    pub(crate) fn convert_later(&self, id: Id) {
        let mut state = self.0.lock();
        if !state.closed && !state.jobs.contains_key(&id) && !self.0.directory.layer(id).exists() {
            state.jobs.insert(id, Job::default());
            state.idle.push_back(id);
            self.0.changed.notify_all();
        }
    }

    /// Returns the squashfs file of a committed snapshot once it is there.
    pub(crate) async fn convert_now(&self, id: Id) -> Result<PathBuf, Arc<ConvertError>> {
        let target = self.0.directory.layer(id);
        let Some(outcome) = self.demand(id) else { return Ok(target) };
        match outcome.await {
            Ok(result) => result.map(|()| target),
            Err(_dropped) => Err(Arc::new(ConvertError::Cancelled)),
        }
    }

    /// Puts a snapshot first; nothing if its file is there.
    fn demand(&self, id: Id) -> Option<oneshot::Receiver<Outcome>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        if self.0.directory.layer(id).exists() && !state.jobs.contains_key(&id) {
            return None;
        }
        if state.closed {
            // The sender is dropped: cancelled.
            return Some(receiver);
        }
        let job = state.jobs.entry(id).or_default();
        job.waiting.push(sender);
        if let Some(progress) = &job.running {
            progress.hurry();
        } else if !state.urgent.contains(&id) {
            state.idle.retain(|queued| *queued != id);
            state.urgent.push_back(id);
            self.0.changed.notify_all();
        }
        Some(receiver)
    }

    /// Drops or stops what concerns a removed snapshot.
    pub(crate) fn forget(&self, id: Id) {
        let mut state = self.0.lock();
        state.urgent.retain(|queued| *queued != id);
        state.idle.retain(|queued| *queued != id);
        let is_running =
            state.jobs.get(&id).and_then(|job| job.running.as_ref()).map(|progress| progress.cancel()).is_some();
        if !is_running {
            state.jobs.remove(&id);
        }
    }

    /// Stops everything. What wasn't converted is queued again by the next start.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.urgent.clear();
        state.idle.clear();
        state.jobs.retain(|_id, job| {
            if let Some(progress) = &job.running {
                progress.cancel();
            }
            job.running.is_some()
        });
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, takes_idle: bool) {
        while let Some((id, idle, progress)) = self.next(takes_idle) {
            let outcome = self.run(id, idle, &progress);
            let job = self.lock().jobs.remove(&id);
            for waiting in job.map(|job| job.waiting).unwrap_or_default() {
                if waiting.send(outcome.clone()).is_err() {
                    debug!(%id, "nobody waits for this layer any more");
                }
            }
        }
    }

    /// Waits for a snapshot to convert; nothing once closed.
    fn next(&self, takes_idle: bool) -> Option<(Id, bool, Arc<Progress>)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let urgent = state.urgent.pop_front().map(|id| (id, false));
            let found = urgent.or_else(|| {
                let idle = if takes_idle { state.idle.pop_front() } else { None };
                idle.map(|id| (id, true))
            });
            if let Some((id, idle)) = found {
                let progress = Arc::new(Progress::new());
                state.jobs.entry(id).or_default().running = Some(Arc::clone(&progress));
                return Some((id, idle, progress));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, id: Id, idle: bool, progress: &Progress) -> Outcome {
        let start = Instant::now();
        match convert::convert(&self.directory.files(id), &self.directory.layer(id), idle, progress) {
            Ok(left_out) => {
                info!(%id, idle, took = ?start.elapsed(), "converted");
                if left_out != stream::LeftOut::default() {
                    let stream::LeftOut { attributes, sockets } = left_out;
                    warn!(%id, attributes, sockets, "left out what squashfs can't hold: attributes such as ACLs, sockets");
                }
                Ok(())
            }
            Err(ConvertError::Cancelled) => {
                debug!(%id, "conversion cancelled");
                Err(Arc::new(ConvertError::Cancelled))
            }
            Err(failure) => {
                warn!(%id, error = supermachine::chain(&failure), "conversion failed; it is tried again when a container needs it");
                Err(Arc::new(failure))
            }
        }
    }
}
