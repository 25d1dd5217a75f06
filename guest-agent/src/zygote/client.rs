//! The agent's side of the zygote.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::sync::Mutex;

pub(crate) use super::message::{CreateOrder, JoinOrder};
use super::message::{Reply, Request};
use crate::descriptor::Descriptor;
use crate::packet;
use crate::refusal::{Kind, Refusal};

/// A connection to the zygote; requests take turns.
#[derive(Debug)]
pub(crate) struct Zygote {
    socket: Mutex<Descriptor>,
}

impl Zygote {
    /// Takes over the agent's end of the socket.
    pub(crate) fn connect(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: Mutex::new(Descriptor::new(socket)?) })
    }

    /// Makes a container and its first process; returns the process id.
    pub(crate) async fn create(&self, order: CreateOrder, spec: &[u8], gifts: &[BorrowedFd<'_>]) -> Reply {
        self.ask(&Request::Create(order), spec, gifts).await
    }

    /// Makes a further process; returns its id.
    pub(crate) async fn join(&self, order: JoinOrder, process: &[u8], gifts: &[BorrowedFd<'_>]) -> Reply {
        self.ask(&Request::Join(order), process, gifts).await
    }

    /// Lets go of a container.
    pub(crate) async fn forget(&self, container: &str) {
        let request = Request::Forget { container: container.to_owned() };
        if let Err(refusal) = self.ask(&request, &[], &[]).await {
            eprintln!("agent: {refusal}");
        }
    }

    async fn ask(&self, request: &Request, body: &[u8], gifts: &[BorrowedFd<'_>]) -> Reply {
        let lost =
            |error: io::Error| Refusal::new(Kind::Internal, format!("the agent's zygote doesn't answer: {error}"));
        if body.len() > packet::MAX_PACKET_BYTES / 2 {
            return Err(Refusal::new(Kind::InvalidArgument, "the spec is too large"));
        }
        let socket = self.socket.lock().await;
        packet::send(socket.as_fd(), request, body, gifts).map_err(lost)?;
        let packet = socket.when_readable(|fd| packet::receive(fd)).await.map_err(lost)?;
        let packet = packet.ok_or_else(|| lost(io::ErrorKind::UnexpectedEof.into()))?;
        let (reply, _) = packet.decode::<Reply>().map_err(lost)?;
        reply
    }
}
