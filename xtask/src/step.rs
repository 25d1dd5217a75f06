//! Progress: each step says what it does and how long it took.

use std::time::Instant;

/// Runs one step of a longer command.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    println!("==> {what}");
    let started = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    println!("    {outcome} after {:.1} s", started.elapsed().as_secs_f64());
    result
}
