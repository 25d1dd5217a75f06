//! The zygote: a single-threaded process, forked before the agent has a runtime, that makes every container process.
//! What it makes are children of the agent (`CLONE_PARENT`), which reaps them.

mod client;
mod containers;
mod message;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub(crate) use client::{CreateOrder, JoinOrder, Zygote};
use containers::Containers;
use message::{Reply, Request};

use crate::container::hide_from_tracing;
use crate::packet::{self, Packet};
use crate::refusal::{Kind, Refusal};
use crate::sys::{self, Forked};

/// Forks the zygote and returns the agent's end of its socket. Must run before the process has a second thread.
pub(crate) fn fork(cgroup_root: PathBuf) -> io::Result<OwnedFd> {
    let (agent_end, zygote_end) = packet::pair()?;
    packet::widen(std::os::fd::AsFd::as_fd(&agent_end))?;
    match sys::fork()? {
        Forked::Parent => Ok(agent_end),
        Forked::Child => {
            drop(agent_end);
            serve(&zygote_end, cgroup_root)
        }
    }
}

/// Answers requests until the agent is gone.
#[allow(clippy::exit, reason = "the zygote is a process of its own: it ends here, not in its maker's code")]
fn serve(socket: &OwnedFd, cgroup_root: PathBuf) -> ! {
    let served = hide_from_tracing().and_then(|()| Containers::new(cgroup_root)).and_then(|mut containers| {
        while let Some(packet) = packet::receive(socket)? {
            let reply: Reply = answer(&mut containers, packet);
            packet::send(socket, &reply, &[], &[])?;
        }
        Ok(())
    });
    if let Err(error) = &served {
        eprintln!("zygote: {error}");
    }
    std::process::exit(i32::from(served.is_err()))
}

fn answer(containers: &mut Containers, mut packet: Packet) -> Reply {
    let descriptors = std::mem::take(&mut packet.descriptors);
    let (request, body): (Request, &[u8]) =
        packet.decode().map_err(|error| Refusal::from_error(Kind::Internal, &error))?;
    match request {
        Request::Create(order) => containers.create(order, body, descriptors),
        Request::Join(order) => containers.join(&order, body, descriptors),
        Request::Forget { container } => {
            containers.forget(&container);
            Ok(0)
        }
    }
}
