//! The service the host talks to.

mod containers;
mod create;
mod dormancy;
mod export;
mod files;
mod process;
mod resources;
mod service;
mod signal;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures::stream;
use tokio::runtime::Builder;
use tokio::sync::Mutex;

use crate::descriptor::Descriptor;
use crate::dials;
use crate::guest::Guest;
use crate::reaper::Reaper;
use crate::resolver::RunningResolver;
use crate::sockets::HostSockets;
use crate::streams::Streams;
use crate::zygote::Zygote;
use containers::Containers;

/// The agent's doors.
pub(crate) struct Sockets {
    /// Listens for RPC connections.
    pub(crate) rpc: OwnedFd,
    /// Listens for stream connections.
    pub(crate) streams: OwnedFd,
    /// Listens for connections to be carried on to what listens in the guest.
    pub(crate) dials: OwnedFd,
    /// Listens for connections that wait for whoever connects to a socket of the host.
    pub(crate) host_sockets: OwnedFd,
    /// Leads to the zygote.
    pub(crate) zygote: OwnedFd,
}

/// Where in the guest the agent keeps things.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The root of the cgroup hierarchy it manages.
    pub(crate) cgroups: PathBuf,
    /// A directory in memory for the files that containers bring.
    pub(crate) files: PathBuf,
    /// A directory for the likenesses of the host's sockets.
    pub(crate) sockets: PathBuf,
}

/// Everything the RPCs work on.
pub(crate) struct Server<G> {
    guest: G,
    places: Places,
    zygote: Zygote,
    reaper: Arc<Reaper>,
    streams: Arc<Streams>,
    sockets: Arc<HostSockets>,
    /// By the container that has one.
    resolvers: std::sync::Mutex<BTreeMap<String, RunningResolver>>,
    containers: Containers,
    /// Held while the writable layer is being exported.
    exporting: Mutex<()>,
    /// The gate: nothing of a container happens before the machine was resumed.
    resumed: AtomicBool,
}

/// Serves until the process ends.
pub(crate) fn serve(sockets: Sockets, guest: impl Guest, places: Places) -> io::Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let children = Reaper::listen()?;
        let reaper = Arc::new(Reaper::default());
        let streams = Arc::new(Streams::default());
        let (stream_listener, dial_listener) = (Descriptor::new(sockets.streams)?, Descriptor::new(sockets.dials)?);
        let host_sockets = Arc::new(HostSockets::new(places.sockets.clone()));
        tokio::spawn(Arc::clone(&host_sockets).run(Descriptor::new(sockets.host_sockets)?));
        let server = Arc::new(Server {
            guest,
            places,
            zygote: Zygote::connect(sockets.zygote)?,
            reaper: Arc::clone(&reaper),
            streams: Arc::clone(&streams),
            sockets: host_sockets,
            resolvers: std::sync::Mutex::default(),
            containers: Containers::default(),
            exporting: Mutex::default(),
            resumed: AtomicBool::new(false),
        });
        tokio::spawn(streams.run(stream_listener));
        let dialled = Arc::clone(&server);
        tokio::spawn(dials::run(dial_listener, move || dialled.guest.network()));
        let mut rpc = ttrpc::r#async::Server::new()
            .add_listener(rpc_listener(Descriptor::new(sockets.rpc)?))
            .register_service(agent_proto::create_agent(server));
        rpc.start().await.map_err(io::Error::other)?;
        reaper.run(children).await;
        Ok(())
    })
}

fn rpc_listener(listener: Descriptor) -> ttrpc::r#async::transport::Listener {
    ttrpc::r#async::transport::Listener::new(stream::unfold(listener, |listener| async move {
        let connection = listener.accept().await.and_then(Descriptor::new);
        Some((connection, listener))
    }))
}
