//! What is dialled in a network namespace reaches the guest: on the host, someone who enters a container's namespace
//! and dials `localhost` there (as for `kubectl port-forward`) means the container's, which is the guest's.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt::IpTransparent};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt::set_ipv6_v6only};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

use super::Guest;
use super::steering::Steering;
use crate::relay;

/// Most connections at a time; more wait to be accepted. The VM has four times as many for everything.
const MAX_OPEN: usize = 256;
/// Most that wait for the guest's answer, whose queue is twice as long.
const MAX_DIALLING: usize = 32;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 256;

/// The place to which connections of a namespace are steered.
#[derive(Debug)]
pub(super) struct Localhost {
    listener: TcpListener,
    _steering: Steering,
}

impl Localhost {
    /// Opens it in this thread's network namespace. What is dialled waits until it is served.
    pub(super) fn open() -> io::Result<Self> {
        let listener = StdListener::from(listening()?);
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener: TcpListener::from_std(listener)?, _steering: Steering::begin(port)? })
    }

    /// Carries connections into the guest, for ever. They end with this.
    pub(super) async fn serve(self, guest: Arc<dyn Guest>) {
        let (mut open, dialling) = (JoinSet::new(), Arc::new(Semaphore::new(MAX_DIALLING)));
        loop {
            tokio::select! {
                Some(_ended) = open.join_next() => {}
                accepted = self.listener.accept(), if open.len() < MAX_OPEN => match accepted {
                    Ok((stream, _)) => drop(open.spawn(carry(stream, Arc::clone(&guest), Arc::clone(&dialling)))),
                    Err(error) => {
                        debug!(%error, "what was dialled can't be accepted");
                        // Out of descriptors, say: the same call would fail at once again.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

/// Carries a connection on until both sides have said all. Where nobody listens in the guest it is reset, as the kernel
/// does with what it can't refuse any more.
async fn carry(mut dialled: TcpStream, guest: Arc<dyn Guest>, dialling: Arc<Semaphore>) {
    let carried = async {
        let address = dialled.local_addr()?;
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let turn = dialling.acquire().await.map_err(io::Error::other)?;
        let mut stream = guest.dial(address).await.map_err(io::Error::other)?;
        drop(turn);
        dialled.set_nodelay(true)?;
        relay::carry(&mut dialled, &mut stream).await
    };
    if let Err(error) = carried.await {
        debug!(error = %crate::error::chain(&error), "a connection to the guest ends");
        let _gone = dialled.set_zero_linger();
    }
}

/// A socket that listens on a port of every address, and takes connections that were dialled to any other.
fn listening() -> io::Result<OwnedFd> {
    let socket = |family| socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (listening, address): (_, SocketAddr) = match socket(AddressFamily::INET6) {
        Ok(listening) => {
            set_ipv6_v6only(&listening, false)?;
            (listening, (Ipv6Addr::UNSPECIFIED, 0).into())
        }
        Err(Errno::AFNOSUPPORT) => (socket(AddressFamily::INET)?, (Ipv4Addr::UNSPECIFIED, 0).into()),
        Err(error) => return Err(error.into()),
    };
    setsockopt(&listening, IpTransparent, &true)?;
    bind(&listening, &address)?;
    listen(&listening, BACKLOG)?;
    Ok(listening)
}
