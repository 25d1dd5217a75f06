//! Whether an emulated host still has a clock.
//!
//! Once in some hundred captures of a nested guest, an emulated processor has been seen to lose its timer: the host
//! never schedules again, and prints nothing. QEMU's main thread, which keeps the timers, then never wakes.

use std::fs;
use std::time::{Duration, Instant};

/// A host that lives wakes its timers' thread several times a second.
const INTERVAL: Duration = Duration::from_secs(5);
/// So many looks in a row without a wake mean that the clock is lost. Looks are counted, not time: a machine that was
/// itself stopped for an hour has looked once.
const PATIENCE: u32 = 12;

/// Watches one QEMU process.
#[derive(Debug)]
pub(crate) struct Clock {
    process: u32,
    wakes: Option<u64>,
    unchanged: u32,
    looked: Instant,
}

impl Clock {
    pub(crate) fn new(process: u32) -> Self {
        Self { process, wakes: None, unchanged: 0, looked: Instant::now() }
    }

    /// True once the timers have stood still for a minute. To be asked often.
    pub(crate) fn is_lost(&mut self) -> bool {
        if self.looked.elapsed() < INTERVAL {
            return false;
        }
        // A process that ends meanwhile has lost nothing.
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap_or_default();
        self.looked = Instant::now();
        self.note(wakes(&status))
    }

    fn note(&mut self, wakes: Option<u64>) -> bool {
        self.unchanged = if wakes.is_none() || wakes != self.wakes { 0 } else { self.unchanged + 1 };
        self.wakes = wakes;
        self.unchanged >= PATIENCE
    }
}

/// How often a process's main thread has waited for something.
fn wakes(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_lost_when_nothing_wakes_for_many_looks() {
        let mut clock = Clock::new(1);
        assert!(!clock.note(Some(7)));
        for _ in 1..PATIENCE {
            assert!(!clock.note(Some(7)));
        }
        assert!(!clock.note(Some(8)), "it woke");
        for _ in 1..PATIENCE {
            assert!(!clock.note(Some(8)));
        }
        assert!(clock.note(Some(8)));
        assert!(!clock.note(None), "a process that is gone");
    }

    #[test]
    fn the_main_threads_waits_are_read() {
        assert_eq!(
            wakes("Name:\tqemu\nvoluntary_ctxt_switches:\t378496\nnonvoluntary_ctxt_switches:\t1787\n"),
            Some(378_496)
        );
        assert!(wakes(&fs::read_to_string("/proc/self/status").unwrap()).is_some());
        assert_eq!(wakes(""), None);
    }
}
