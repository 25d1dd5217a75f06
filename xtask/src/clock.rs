//! Whether an emulated host still has a clock.
//!
//! Once in some hundred captures of a nested guest, an emulated processor has been seen to lose its timer: the host
//! never schedules again, and prints nothing. QEMU's main thread, which keeps the timers, then never wakes.

use std::fs;
use std::time::{Duration, Instant};

/// A host that lives wakes its timers' thread several times a second.
const PATIENCE: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(5);

/// Watches one QEMU process.
#[derive(Debug)]
pub(crate) struct Clock {
    process: u32,
    wakes: Option<u64>,
    changed: Instant,
    looked: Instant,
}

impl Clock {
    pub(crate) fn new(process: u32) -> Self {
        let now = Instant::now();
        Self { process, wakes: None, changed: now, looked: now }
    }

    /// True once the timers have stood still for a minute. To be asked often.
    pub(crate) fn is_lost(&mut self) -> bool {
        if self.looked.elapsed() < INTERVAL {
            return false;
        }
        // A process that ends meanwhile has lost nothing.
        let status = fs::read_to_string(format!("/proc/{}/status", self.process)).unwrap_or_default();
        self.note(wakes(&status), Instant::now())
    }

    fn note(&mut self, wakes: Option<u64>, now: Instant) -> bool {
        self.looked = now;
        if wakes.is_none() || wakes != self.wakes {
            (self.wakes, self.changed) = (wakes, now);
        }
        now.duration_since(self.changed) > PATIENCE
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
    fn a_clock_is_lost_when_nothing_wakes_for_a_minute() {
        let mut clock = Clock::new(1);
        let start = clock.changed;
        let mut after = |seconds, wakes| clock.note(wakes, start + Duration::from_secs(seconds));
        assert!(!after(5, Some(7)));
        assert!(!after(64, Some(7)), "59 s");
        assert!(!after(65, Some(8)));
        assert!(!after(120, Some(8)));
        assert!(after(126, Some(8)));
        assert!(!after(131, None), "a process that is gone");
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
