//! The language between the host and the agent: messages, client and server of `proto/agent.proto`.
#![deny(unsafe_code)]

mod archive;
mod features;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use archive::MOUNT_NOTES;
pub use features::{MOUNT_OPTIONS, NAMESPACES};
pub use generated::agent::*;
pub use generated::agent_ttrpc::{Agent, AgentClient, create_agent};
