//! Where the time of a start goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// Whose work a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Whoever called: containerd and its client.
    Caller,
    /// The process that starts the VM, and the host's kernel for it.
    Shim,
    /// The virtual machine monitor.
    Vmm,
    /// The guest's kernel and agent.
    Guest,
    /// The container's own process.
    Container,
}

/// One phase: the time from the end of the one before until what its name says was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What was reached.
    pub name: String,
    /// Whose work it was.
    pub owner: Owner,
    /// When it began, in microseconds since the start did.
    pub began_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
}

/// Notes the phases of one start as they end, without gaps: each begins where the last one ended. Clones note the same
/// start.
#[derive(Clone, Debug)]
pub struct Trace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    began_at: SystemTime,
    ends: Mutex<Vec<End>>,
}

#[derive(Clone, Copy, Debug)]
struct End {
    name: &'static str,
    owner: Owner,
    after: Duration,
}

impl Trace {
    /// A start that begins now.
    pub fn begin() -> Self {
        Self(Arc::new(Inner { began: Instant::now(), began_at: SystemTime::now(), ends: Mutex::default() }))
    }

    /// A phase ends now.
    pub fn end(&self, name: &'static str, owner: Owner) {
        self.end_at(name, owner, Instant::now());
    }

    /// A phase ended at some moment. One before the end of the last phase counts as that.
    pub fn end_at(&self, name: &'static str, owner: Owner, at: Instant) {
        let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let last = ends.last().map_or(Duration::ZERO, |end| end.after);
        let after = at.saturating_duration_since(self.0.began).max(last);
        ends.push(End { name, owner, after });
    }

    /// The phases so far.
    pub fn phases(&self) -> Vec<Phase> {
        let ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let mut began_us = 0;
        let phase = |end: &End| {
            let ended_us = micros(end.after);
            let phase = Phase {
                name: end.name.to_owned(),
                owner: end.owner,
                began_us,
                took_us: ended_us.saturating_sub(began_us),
            };
            began_us = ended_us;
            phase
        };
        ends.iter().map(phase).collect()
    }

    /// When it began, in microseconds since 1970.
    pub fn began_unix_us(&self) -> u64 {
        micros(self.0.began_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::begin()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_has_an_owner_whatever_order_the_ends_are_told_in() {
        let trace = Trace::begin();
        let after = |us| trace.0.began + Duration::from_micros(us);
        trace.end_at("bundle read", Owner::Shim, after(100));
        trace.clone().end_at("running", Owner::Vmm, after(400));
        trace.end_at("first output", Owner::Container, after(300));
        trace.end_at("process started", Owner::Guest, after(450));
        let phases = trace.phases();
        let times: Vec<_> = phases.iter().map(|phase| (phase.began_us, phase.took_us)).collect();
        assert_eq!(times, [(0, 100), (100, 300), (400, 0), (400, 50)]);
        assert_eq!((phases[1].name.as_str(), phases[1].owner), ("running", Owner::Vmm));
        assert!(trace.began_unix_us() > 1_600_000_000_000_000);
    }
}
