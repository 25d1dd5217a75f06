//! The system calls that no safe library offers: the only room of this crate where `unsafe` may live.
#![allow(unsafe_code, reason = "this is the crate's one room for it; every block states why it is sound")]

mod block;
mod bpf;
mod clone;
mod entropy;
mod keyring;
mod network;
mod readiness;
mod scheduling;
mod seccomp;
mod signals;

pub(crate) use block::{MAX_PARTITIONS, add_partition, delete_partition, set_read_only};
pub(crate) use bpf::{BpfInstruction, filter_devices};
pub(crate) use clone::{Child, CloneRequest, Forked, clone_sibling, fork, unshare};
pub(crate) use entropy::{SEED_BYTES, credit_entropy};
pub(crate) use keyring::join_session_keyring;
pub(crate) use network::raise_loopback;
pub(crate) use readiness::watch;
pub(crate) use scheduling::{Scheduling, set_io_priority, set_scheduling};
pub(crate) use seccomp::{FilterInstruction, install_filter};
pub(crate) use signals::{kill, mark_close_on_exec, reset_signals};
