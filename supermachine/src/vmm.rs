//! A VMM process and the conversation with it.

mod control;
mod exit;
mod process;

pub(crate) use control::{Answer, VmmError, pollable};
pub use exit::{Exit, ExitReason, Exited};
pub(crate) use process::{Logs, Process, SpawnError};
