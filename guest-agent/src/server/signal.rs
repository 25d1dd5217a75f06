//! Signals, to one process or to all of a container.

use std::collections::BTreeSet;

use agent_proto::SignalProcessRequest;

use super::Server;
use super::containers::Container;
use super::process::send_signal;
use crate::guest::Guest;
use crate::refusal::{Kind, Refusal};

/// How often processes that appeared while others were signalled are looked for: some are always making new ones.
const ROUNDS: usize = 16;

impl<G: Guest> Server<G> {
    pub(super) fn signal(&self, request: &SignalProcessRequest) -> Result<(), Refusal> {
        if request.all && request.exec_id.is_empty() {
            signal_all(&self.containers.container(&request.container_id)?, request.signal)
        } else {
            self.containers.process(&request.container_id, &request.exec_id)?.signal(request.signal)
        }
    }
}

fn signal_all(container: &Container, signal: u32) -> Result<(), Refusal> {
    let failed = |error: std::io::Error| Refusal::new(Kind::Internal, format!("signal the container: {error}"));
    if i32::try_from(signal) == Ok(libc::SIGKILL) && container.first.exit().is_none() {
        return container.cgroup.kill().map_err(failed);
    }
    let mut signalled = BTreeSet::new();
    for _ in 0..ROUNDS {
        let before = signalled.len();
        for pid in container.cgroup.processes().map_err(failed)? {
            if signalled.insert(pid) {
                match send_signal(pid, signal) {
                    // It ended in between.
                    Err(refusal) if refusal.kind == Kind::NotFound => {}
                    result => result?,
                }
            }
        }
        if signalled.len() == before {
            break;
        }
    }
    if signalled.is_empty() {
        return Err(Refusal::new(Kind::NotFound, "no process of the container is left"));
    }
    Ok(())
}
