//! The agent: process 1 of every guest. It makes containers, carries their streams, and tells of their exits.
//!
//! Two processes. The **agent** (`server`) answers the host and reaps; it has one thread and an asynchronous runtime.
//! The **zygote** (`zygote`) was forked before that runtime existed and makes every container process
//! (`container`), because only a process with one thread and no locks may be duplicated and go on.
#![deny(unsafe_code)]

mod archive;
mod boot;
mod cgroup;
mod connections;
mod container;
mod descriptor;
mod device_filter;
mod dials;
mod guest;
mod kept_streams;
mod machine;
mod namespace;
mod packet;
mod reaper;
mod refusal;
mod relay;
mod resolver;
mod seccomp;
mod server;
mod sockets;
mod stdio;
mod streams;
mod sys;
mod trial;
mod vsock;
mod zygote;

pub use boot::{BootError, run};
pub use trial::{Ground, TrialError, serve_directory};
