//! The language between the agent and its zygote. Specs follow a message as raw JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::{HostDevice, InjectedFile, TerminalSize};
use crate::refusal::Refusal;

/// What the agent asks for. Descriptors that go along: the new process's control socket, then, without a terminal, its
/// three standard streams.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// A container and its first process; the spec follows.
    Create(CreateOrder),
    /// A further process; its `process` object follows.
    Join(JoinOrder),
    /// A container is gone.
    Forget { container: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreateOrder {
    pub(crate) container: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) files: Vec<InjectedFile>,
    pub(crate) terminal: Option<TerminalSize>,
    /// A network namespace to join, if the spec names none.
    pub(crate) network: Option<PathBuf>,
    /// Block devices of the host that the spec names.
    pub(crate) devices: Vec<HostDevice>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct JoinOrder {
    pub(crate) container: String,
    pub(crate) terminal: Option<TerminalSize>,
}

/// The id of the new process in the guest's root namespace.
pub(crate) type Reply = Result<i32, Refusal>;
