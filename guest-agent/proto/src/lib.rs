//! The language between the host and the agent: messages, client and server of `proto/agent.proto`.
#![deny(unsafe_code)]

mod archive;
mod dial;
mod features;
mod socket;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

/// Directory of the guest in which directories and files of the host are, each by a name that the host chose.
pub const VOLUMES: &str = "/run/supermachine/volumes";

pub use archive::MOUNT_NOTES;
pub use dial::{DIAL_BYTES, DIAL_PORT, DIALLED, decode_dial, encode_dial};
pub use features::{MOUNT_OPTIONS, NAMESPACES};
pub use generated::agent::*;
pub use generated::agent_ttrpc::{Agent, AgentClient, create_agent};
pub use socket::{
    ANSWERED, CALLED, RESOLVER, SOCKET_NAME_BYTES, SOCKET_PORT, SOCKETS, decode_socket_name, encode_socket_name,
};
