//! Waiting for events: one epoll instance per worker, shared by the devices it serves.

use std::os::fd::RawFd;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::DeviceError;

/// A non-blocking, close-on-exec event.
pub(crate) fn new_event() -> Result<EventFd, DeviceError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map_err(|source| DeviceError::Host { resource: "an eventfd", source })
}

/// One device's access to the epoll instance of its worker.
///
/// Everything is watched edge-triggered: an event says that something changed, once, and an eventfd need not be
/// read to be heard again. A descriptor leaves the instance when it is closed.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    epoll: Arc<Epoll>,
    service: u32,
}

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// An eventfd being signalled.
    Event,
    /// A stream socket becoming readable, writable or closed.
    Stream,
}

impl Poll {
    /// Access for the first service of a worker.
    pub(crate) fn new() -> Result<Self, DeviceError> {
        let epoll = Epoll::new().map_err(|source| DeviceError::Host { resource: "an epoll instance", source })?;
        Ok(Self { epoll: Arc::new(epoll), service: 0 })
    }

    /// Access for the next service of the same worker.
    pub(crate) fn next(&self) -> Self {
        Self { epoll: Arc::clone(&self.epoll), service: self.service + 1 }
    }

    /// Watches a descriptor; its events carry `token`.
    pub(crate) fn add(&self, fd: RawFd, token: u32, watch: Watch) -> Result<(), DeviceError> {
        let events = match watch {
            Watch::Event => EventSet::IN,
            Watch::Stream => EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP,
        };
        let data = u64::from(self.service) << 32 | u64::from(token);
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events | EventSet::EDGE_TRIGGERED, data))
            .map_err(|source| DeviceError::Host { resource: "a place in an epoll instance", source })
    }

    /// Waits for events and returns how many there are.
    pub(crate) fn wait(&self, events: &mut [EpollEvent]) -> std::io::Result<usize> {
        loop {
            match self.epoll.wait(-1, events) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Splits an event into the service it is for, its token and what happened.
pub(crate) fn destination(event: &EpollEvent) -> (usize, u32, EventSet) {
    let data = event.data();
    // The casts take the two halves that `Poll::add` put together.
    ((data >> 32) as usize, data as u32, event.event_set())
}
