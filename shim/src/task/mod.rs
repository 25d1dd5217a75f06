//! A container and its processes as the Task service knows them.

mod container;
mod exit;
mod memory;
mod process;
mod state;

pub(crate) use container::{Container, Identity};
pub(crate) use exit::{HANG_UP_TIMEOUT, note, watch};
pub(crate) use memory::watch_memory;
pub(crate) use process::{ExecSpec, Process};
pub(crate) use state::{Exit, Phase, StateError};
