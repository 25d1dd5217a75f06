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
use crate::error::chain;
use crate::record::Id;
use convert::Progress;
pub(crate) use convert::{ConvertError, check_tool};

/// Which of a snapshot's two possible squashfs files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// Of a committed snapshot: never changes.
    Layer,
    /// What the host has written into an active snapshot.
    Written,
}

type Task = (Id, Form);
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
    urgent: VecDeque<Task>,
    idle: VecDeque<Task>,
    /// Everything queued or running.
    jobs: HashMap<Task, Job>,
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
        let task = (id, Form::Layer);
        let mut state = self.0.lock();
        if !state.closed && !state.jobs.contains_key(&task) && !self.0.directory.layer(id).exists() {
            state.jobs.insert(task, Job::default());
            state.idle.push_back(task);
            self.0.changed.notify_all();
        }
    }

    /// Returns the squashfs file once it is there. The layer of a committed snapshot is converted at most once, what
    /// was written into an active one anew each time.
    pub(crate) async fn convert_now(&self, id: Id, form: Form) -> Result<PathBuf, Arc<ConvertError>> {
        let target = self.0.target((id, form));
        let Some(outcome) = self.demand((id, form)) else { return Ok(target) };
        match outcome.await {
            Ok(result) => result.map(|()| target),
            Err(_dropped) => Err(Arc::new(ConvertError::Cancelled)),
        }
    }

    /// Puts a task first; nothing if its file is there.
    fn demand(&self, task: Task) -> Option<oneshot::Receiver<Outcome>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.lock();
        let there = task.1 == Form::Layer && self.0.target(task).exists();
        if there && !state.jobs.contains_key(&task) {
            return None;
        }
        if state.closed {
            // The sender is dropped: cancelled.
            return Some(receiver);
        }
        let job = state.jobs.entry(task).or_default();
        job.waiting.push(sender);
        if let Some(progress) = &job.running {
            progress.hurry();
        } else if !state.urgent.contains(&task) {
            state.idle.retain(|queued| *queued != task);
            state.urgent.push_back(task);
            self.0.changed.notify_all();
        }
        Some(receiver)
    }

    /// Drops or stops what concerns a removed snapshot.
    pub(crate) fn forget(&self, id: Id) {
        let mut state = self.0.lock();
        state.urgent.retain(|task| task.0 != id);
        state.idle.retain(|task| task.0 != id);
        state.jobs.retain(|task, job| {
            if let Some(progress) = job.running.as_ref().filter(|_| task.0 == id) {
                progress.cancel();
            }
            task.0 != id || job.running.is_some()
        });
    }

    /// Stops everything. What wasn't converted is queued again by the next start.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.urgent.clear();
        state.idle.clear();
        state.jobs.retain(|_task, job| {
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

    fn target(&self, (id, form): Task) -> PathBuf {
        match form {
            Form::Layer => self.directory.layer(id),
            Form::Written => self.directory.written(id),
        }
    }

    fn work(&self, takes_idle: bool) {
        while let Some((task, idle, progress)) = self.next(takes_idle) {
            let outcome = self.run(task, idle, &progress);
            let job = self.lock().jobs.remove(&task);
            for waiting in job.map(|job| job.waiting).unwrap_or_default() {
                if waiting.send(outcome.clone()).is_err() {
                    debug!(id = %task.0, "nobody waits for this layer any more");
                }
            }
        }
    }

    /// Waits for a task; nothing once closed.
    fn next(&self, takes_idle: bool) -> Option<(Task, bool, Arc<Progress>)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let urgent = state.urgent.pop_front().map(|task| (task, false));
            let found = urgent.or_else(|| {
                let idle = if takes_idle { state.idle.pop_front() } else { None };
                idle.map(|task| (task, true))
            });
            if let Some((task, idle)) = found {
                let progress = Arc::new(Progress::new());
                state.jobs.entry(task).or_default().running = Some(Arc::clone(&progress));
                return Some((task, idle, progress));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, task: Task, idle: bool, progress: &Progress) -> Outcome {
        let (id, form) = task;
        let start = Instant::now();
        match convert::convert(&self.directory.files(id), &self.target(task), idle, progress) {
            Ok(left_out) => {
                info!(%id, ?form, idle, took = ?start.elapsed(), "converted");
                if left_out != stream::LeftOut::default() {
                    let stream::LeftOut { attributes, sockets } = left_out;
                    warn!(%id, attributes, sockets, "left out what squashfs can't hold: attributes such as ACLs, sockets");
                }
                Ok(())
            }
            Err(ConvertError::Cancelled) => {
                debug!(%id, ?form, "conversion cancelled");
                Err(Arc::new(ConvertError::Cancelled))
            }
            Err(failure) => {
                warn!(%id, ?form, error = chain(&failure), "conversion failed; it is tried again when a container needs it");
                Err(Arc::new(failure))
            }
        }
    }
}
