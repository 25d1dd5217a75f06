//! The host's side of a VM's network: its namespace's interfaces, connected to the guest's cards.
//!
//! Whoever sets up a container's network (a CNI plugin) puts interfaces into its network namespace. What arrives
//! at one is redirected to a tap device whose other end is a card of the guest, and what the guest sends leaves through the
//! interface. The guest's kernel has the interface's name, addresses and routes, so that bridges, port forwarding and
//! other containers find it as they would find a process in that namespace.

mod error;
mod events;
mod interface;
mod localhost;
mod mirror;
mod redirect;
mod steering;
mod tap;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use agent_proto::ConfigureNetworkRequest;
use rtnetlink::Handle;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

pub(crate) use error::DialError;
pub use error::NetworkError;
use error::at;
use events::Events;
use localhost::Localhost;
use mirror::Mirror;

/// How long what a VM had in a namespace may stay there after its end.
const LEAVES_WITHIN: Duration = Duration::from_millis(500);
const LEAVES_POLL: Duration = Duration::from_millis(5);

/// A guest, as its network needs it.
#[async_trait::async_trait]
pub(crate) trait Guest: Send + Sync + 'static {
    /// Connects a card of the guest to a tap device, which lives as long as it is open somewhere.
    async fn attach(&self, card: usize, tap: OwnedFd) -> Result<(), NetworkError>;
    /// Has the guest show an interface, the card that is named in it.
    async fn configure(&self, interface: &ConfigureNetworkRequest) -> Result<(), NetworkError>;
    /// Takes an interface away from the guest, and its tap.
    async fn remove(&self, card: usize) -> Result<(), NetworkError>;
    /// A stream to whoever listens at an address in the guest.
    async fn dial(&self, address: SocketAddr) -> Result<UnixStream, DialError>;
}

/// A guest's connection to its network. Dropping it ends what is done for it on the host, soon; cards keep their taps.
#[derive(Debug)]
pub(crate) struct Connection {
    _end: oneshot::Sender<Infallible>,
}

/// Connects a guest to the interfaces of a network namespace beside its loopback, those that it has and those that it
/// gets. `host_asks` says whether a name server of the host is there too, and asks others from there.
pub(crate) async fn connect(
    namespace: File,
    guest: Arc<dyn Guest>,
    host_asks: bool,
) -> Result<Connection, NetworkError> {
    let (end, ended) = oneshot::channel::<Infallible>();
    inside(namespace, async move |handle: Handle| {
        let connected = Connected::begin(handle, guest, host_asks).await?;
        let following = async move {
            tokio::select! {
                _ = ended => {}
                error = connected.follow() => {
                    tracing::warn!("changes of the network don't reach the guest any more: {}", crate::error::chain(&error));
                }
            }
        };
        Ok(((), following))
    })
    .await?;
    Ok(Connection { _end: end })
}

/// What is done for a guest in its namespace.
struct Connected {
    handle: Handle,
    guest: Arc<dyn Guest>,
    events: Events,
    mirror: Mirror,
    /// The way for what is dialled; nothing is in it without an interface.
    localhost: JoinSet<()>,
}

impl Connected {
    async fn begin(handle: Handle, guest: Arc<dyn Guest>, host_asks: bool) -> Result<Self, NetworkError> {
        let began = Instant::now();
        // Before anything is looked at, so that no change is missed.
        let events = Events::subscribe()?;
        let mirror = loop {
            match Mirror::begin(handle.clone(), Arc::clone(&guest), host_asks).await {
                // By a VM that may have ended: its interface goes a little later.
                Err(NetworkError::Taken { .. }) if began.elapsed() < LEAVES_WITHIN => sleep(LEAVES_POLL).await,
                begun => break begun?,
            }
        };
        let mirrored_us = began.elapsed().as_micros();
        let mut connected = Self { handle, guest, events, mirror, localhost: JoinSet::new() };
        connected.open_localhost().await?;
        let opened_us = began.elapsed().as_micros();
        tracing::info!(interfaces = ?connected.mirror.names(), mirrored_us, opened_us, "network");
        Ok(connected)
    }

    /// Shows the guest what changes, for ever.
    async fn follow(mut self) -> NetworkError {
        loop {
            if let Err(error) = self.events.changed().await {
                return error;
            }
            self.mirror.update().await;
            if let Err(error) = self.open_localhost().await {
                return error;
            }
        }
    }

    /// Opens the way for what is dialled in the namespace, once there is an interface. A container can do without it.
    async fn open_localhost(&mut self) -> Result<(), NetworkError> {
        if self.mirror.is_empty() || !self.localhost.is_empty() {
            return Ok(());
        }
        let raised = interface::raise_loopback(&self.handle).await;
        raised.map_err(at("bring up", "lo"))?;
        match Localhost::open() {
            Ok(localhost) => drop(self.localhost.spawn(localhost.serve(Arc::clone(&self.guest)))),
            Err(error) => {
                tracing::warn!(
                    "what dials `localhost` in the container's network namespace doesn't reach the guest: {error}; are \
                     the kernel's modules nf_tables, nft_socket and nft_tproxy there?"
                );
                // It is tried once.
                self.localhost.spawn(std::future::pending());
            }
        }
        Ok(())
    }
}

/// Works in a network namespace, in a thread of its own: one that has changed its namespace is of no use to anyone else.
/// What is left to be done once the result is known ends with the thread.
async fn inside<T: Send + 'static, R: Future<Output = ()>>(
    namespace: File,
    work: impl AsyncFnOnce(Handle) -> Result<(T, R), NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        let runtime = enter(&namespace).and_then(|()| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetworkError::Thread)
        });
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(sender.send(Err(error))),
        };
        runtime.block_on(async {
            let begun = async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Thread)?;
                tokio::spawn(connection);
                work(handle).await
            };
            match begun.await {
                // If nobody listens any more, what was made ends with its descriptors.
                Ok((result, rest)) => {
                    if sender.send(Ok(result)).is_ok() {
                        rest.await;
                    }
                }
                Err(error) => drop(sender.send(Err(error))),
            }
        });
    };
    Builder::new().name("network".to_owned()).spawn(run).map_err(NetworkError::Thread)?;
    receiver.await.unwrap_or_else(|_ended| Err(NetworkError::Thread(io::ErrorKind::BrokenPipe.into())))
}

/// Moves this thread into a namespace, for good.
fn enter(namespace: &File) -> Result<(), NetworkError> {
    let inode = |file: &File| file.metadata().map(|metadata| metadata.ino());
    let own = File::open("/proc/thread-self/ns/net").and_then(|own| inode(&own)).map_err(NetworkError::Namespace)?;
    if inode(namespace).map_err(NetworkError::Namespace)? == own {
        return Err(NetworkError::Own);
    }
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| NetworkError::Namespace(error.into()))
}
