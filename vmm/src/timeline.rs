//! When each phase of a start was reached.

use std::time::Instant;

use vmm_api::Timeline;

/// Counts from the first instruction of `main`.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    start: Instant,
    /// What was reached so far.
    pub timeline: Timeline,
}

impl Stopwatch {
    /// Starts counting.
    #[expect(clippy::new_without_default, reason = "a default value with the time of its creation would surprise")]
    pub fn new() -> Self {
        Self { start: Instant::now(), timeline: Timeline::default() }
    }

    /// Microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        self.start.elapsed().as_micros().try_into().unwrap_or(u64::MAX)
    }
}
