//! The host's side of a VM's network: its namespace's interface, connected to the guest's card.
//!
//! Whoever sets up a container's network (a CNI plugin) puts an interface into its network namespace. What arrives
//! there is redirected to a tap device whose other end is the guest's card, and what the guest sends leaves through the
//! interface. The guest's kernel has the interface's name, addresses and routes, so that bridges, port forwarding and
//! other containers find it as they would find a process in that namespace.

mod error;
mod interface;
mod redirect;
mod tap;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::thread::Builder;

use agent_proto::ConfigureNetworkRequest;
use rtnetlink::Handle;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

pub use error::NetworkError;
use error::at;
use interface::Interface;

/// A wire into a network namespace.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The guest's end: a tap device, which lives as long as this is open somewhere.
    pub(crate) tap: OwnedFd,
    /// The interface at the other end, as the guest is to show it.
    pub(crate) interface: ConfigureNetworkRequest,
}

/// Connects a tap to the one interface of a network namespace beside its loopback. None if there is no such interface.
pub(crate) async fn connect(namespace: File) -> Result<Option<Wire>, NetworkError> {
    inside(namespace, async |handle: &Handle| match interface::find(handle).await? {
        Some(interface) => Ok(Some(wire(handle, interface).await?)),
        None => Ok(None),
    })
    .await
}

/// Works in a network namespace, in a thread of its own: one that has changed its namespace is of no use to anyone else.
async fn inside<T: Send + 'static>(
    namespace: File,
    work: impl AsyncFnOnce(&Handle) -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        enter(&namespace)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.map_err(NetworkError::Thread)?.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Thread)?;
            tokio::spawn(connection);
            work(&handle).await
        })
    };
    // If nobody listens any more, what was made ends with its descriptors.
    let thread = Builder::new().name("network".to_owned()).spawn(move || drop(sender.send(run())));
    thread.map_err(NetworkError::Thread)?;
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

async fn wire(handle: &Handle, interface: Interface) -> Result<Wire, NetworkError> {
    let description = interface::describe(handle, &interface).await?;
    let tap = tap::create().map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => NetworkError::Taken { interface: interface.name.clone() },
        _ => NetworkError::Tap { interface: interface.name.clone(), source },
    })?;
    let link = tap::raise(handle, interface.mtu).await.map_err(at("bring up the tap of", &interface.name))?;
    redirect::join(handle, &interface, link).await?;
    Ok(Wire { tap, interface: description })
}
