//! Threads that serve devices.

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::DeviceError;
use crate::poll::{Poll, Watch, destination, new_event};

/// A device as its worker sees it. Both calls are short or bounded: the worker may serve other devices too.
pub(crate) trait Service: Send + Sync + fmt::Debug {
    /// The worker starts: do whatever may have been left to do.
    fn kick(&self);
    /// A descriptor that the device gave to its [`Poll`] has news.
    fn handle(&self, token: u32, events: EventSet);
}

/// A thread serving one or more devices, stopped and started as a whole.
#[derive(Debug)]
pub(crate) struct Worker {
    name: &'static str,
    poll: Poll,
    services: Vec<Arc<dyn Service>>,
    stop: EventFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Token of the stop event; its service index is past the last service.
const STOP: u32 = 0;
/// Events taken per wait.
const BATCH: usize = 32;

impl Worker {
    /// A worker that isn't started. The n-th service uses the n-th access made from `poll`.
    pub(crate) fn new(name: &'static str, poll: Poll, services: Vec<Arc<dyn Service>>) -> Result<Self, DeviceError> {
        let stop = new_event()?;
        let own = services.iter().fold(poll.clone(), |access, _| access.next());
        own.add(stop.as_raw_fd(), STOP, Watch::Event)?;
        Ok(Self { name, poll, services, stop, thread: Mutex::new(None) })
    }

    /// Starts the thread, which calls `enter` first; no effect on a running one.
    pub(crate) fn start(&self, enter: fn()) -> Result<(), DeviceError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let (poll, services) = (self.poll.clone(), self.services.clone());
            let spawned = std::thread::Builder::new()
                .name(self.name.to_owned())
                .spawn(move || {
                    enter();
                    run(&poll, &services);
                })
                .map_err(|source| DeviceError::Host { resource: "a thread", source })?;
            *thread = Some(spawned);
        }
        Ok(())
    }

    /// Stops the thread after it completed what it took from the queues; no effect on a stopped one.
    pub(crate) fn stop(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // Fails only when the counter is at its limit, and then the event is pending anyway.
            let _ = self.stop.write(1);
            if thread.join().is_err() {
                tracing::error!(worker = self.name, "a device worker panicked");
            }
        }
    }

    /// Whether the thread was started and not stopped.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(poll: &Poll, services: &[Arc<dyn Service>]) {
    for service in services {
        service.kick();
    }
    let mut events = [EpollEvent::default(); BATCH];
    loop {
        let count = match poll.wait(&mut events) {
            Ok(count) => count,
            Err(error) => {
                tracing::error!(%error, "a device worker can't wait for events and ends");
                return;
            }
        };
        for event in events.iter().take(count) {
            let (service, token, set) = destination(event);
            match services.get(service) {
                Some(service) => service.handle(token, set),
                None => return,
            }
        }
    }
}
