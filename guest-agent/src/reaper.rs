//! Exits: every child is reaped, orphans of containers included, and those the agent knows are told on.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::cgroup::Cgroup;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 0-255, or 128 + signal.
    pub(crate) code: u32,
    pub(crate) at: SystemTime,
}

/// Tells when a process has ended.
#[derive(Debug, Clone)]
pub(crate) struct ExitWatch {
    receiver: watch::Receiver<Option<Exit>>,
}

impl ExitWatch {
    /// The exit, if it happened.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.receiver.borrow()
    }

    /// Waits for the exit.
    pub(crate) async fn wait(&self) -> Option<Exit> {
        let mut receiver = self.receiver.clone();
        let exit = receiver.wait_for(Option::is_some).await.ok()?;
        *exit
    }
}

/// Reaps children.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watched: BTreeMap<i32, Watched>,
    /// Processes being made: their exit can come before their id is known here.
    expected: usize,
    /// Exits nobody watched, kept only while processes are expected.
    strays: BTreeMap<i32, Exit>,
}

#[derive(Debug)]
struct Watched {
    sender: watch::Sender<Option<Exit>>,
    /// The cgroup that dies with this process: it is a container's first.
    cgroup: Option<Cgroup>,
}

/// A process that is being made; see [`Reaper::expect`].
#[derive(Debug)]
pub(crate) struct Expectation<'a> {
    reaper: &'a Reaper,
}

impl Reaper {
    /// Listens for children that end. One must do so from before the first is made.
    pub(crate) fn listen() -> std::io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Reaps for ever.
    pub(crate) async fn run(&self, mut children: Signal) {
        while children.recv().await.is_some() {
            self.reap();
        }
    }

    /// Announces that a process is being made, so that its exit isn't missed.
    pub(crate) fn expect(&self) -> Expectation<'_> {
        self.lock().expected += 1;
        Expectation { reaper: self }
    }

    fn reap(&self) {
        // "No child left" ends the loop like "none has ended": both leave nothing to do.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(code) = exit_code(status) {
                self.record(pid.as_raw_pid(), code);
            }
        }
    }

    fn record(&self, pid: i32, code: u32) {
        let exit = Exit { code, at: SystemTime::now() };
        let mut state = self.lock();
        match state.watched.remove(&pid) {
            Some(watched) => watched.tell(exit),
            None if state.expected > 0 => drop(state.strays.insert(pid, exit)),
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exit_code(status: WaitStatus) -> Option<u32> {
    let signal = status.terminating_signal().map(|signal| 128 + signal);
    status.exit_status().or(signal).and_then(|code| u32::try_from(code).ok())
}

impl Watched {
    fn tell(&self, exit: Exit) {
        if let Some(Err(error)) = self.cgroup.as_ref().map(Cgroup::kill) {
            eprintln!("agent: kill what a container left behind: {error}");
        }
        self.sender.send_replace(Some(exit));
    }
}

impl Expectation<'_> {
    /// The process has this id. With `cgroup`, everything in that is killed when the process ends.
    pub(crate) fn met(self, pid: i32, cgroup: Option<Cgroup>) -> ExitWatch {
        let (sender, receiver) = watch::channel(None);
        let watched = Watched { sender, cgroup };
        let mut state = self.reaper.lock();
        match state.strays.remove(&pid) {
            Some(exit) => watched.tell(exit),
            None => drop(state.watched.insert(pid, watched)),
        }
        ExitWatch { receiver }
    }
}

impl Drop for Expectation<'_> {
    fn drop(&mut self) {
        let mut state = self.reaper.lock();
        state.expected -= 1;
        if state.expected == 0 {
            state.strays.clear();
        }
    }
}
