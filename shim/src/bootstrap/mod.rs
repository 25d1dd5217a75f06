//! The short-lived invocations: `start`, `delete` and `-info`.
//!
//! They are measured in instructions: no async runtime, and nothing is parsed that the answer doesn't need.

pub(crate) mod delete;
pub(crate) mod info;
mod living;
mod params;
mod socket;
pub(crate) mod start;

pub(crate) use socket::{SocketPath, remove as remove_socket};

use std::io::Read as _;

/// More than any message containerd writes to a shim's standard input.
const INPUT_LIMIT: u64 = 4 << 20;

fn read_stdin() -> std::io::Result<Vec<u8>> {
    let mut input = Vec::new();
    std::io::stdin().lock().take(INPUT_LIMIT).read_to_end(&mut input)?;
    Ok(input)
}
