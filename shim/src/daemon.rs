//! The daemon that `start` leaves behind: serves the Task service until its last task is deleted.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use containerd_shim::Flags;
use supermachine_config::{Config, ConfigError};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::{info, warn};
use ttrpc::asynchronous::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::bootstrap::{SocketPath, remove_socket};
use crate::events::Publisher;
use crate::sandbox::MicroVms;
use crate::service::Service;
use crate::{log, process_record};

/// Why the daemon ended early.
#[derive(Debug, Error)]
pub(crate) enum DaemonError {
    /// The log FIFO can't be used.
    #[error("open the log")]
    Log(#[source] io::Error),
    /// Standard input isn't the listening socket that `start` passes.
    #[error("take the listening socket from standard input")]
    Listener(#[source] io::Error),
    /// The process could not be noted for `delete`.
    #[error("write {}", process_record::SHIM)]
    Record(#[source] io::Error),
    /// The configuration is wrong.
    #[error("read the configuration")]
    Config(#[from] ConfigError),
    /// No async runtime.
    #[error("start the async runtime")]
    Runtime(#[source] io::Error),
    /// The server did not start.
    #[error("serve")]
    Serve(#[source] ttrpc::Error),
}

/// Serves in the current directory, the bundle, with the listening socket as standard input.
pub(crate) fn run(flags: &Flags) -> Result<(), DaemonError> {
    log::init(Path::new("log"), flags.debug).map_err(DaemonError::Log)?;
    let listener = take_listener().map_err(DaemonError::Listener)?;
    process_record::write(Path::new(process_record::SHIM), std::process::id()).map_err(DaemonError::Record)?;
    let config = Config::load()?;
    // One thread: everything here waits for others, and one core's caches serve it best.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DaemonError::Runtime)?;
    runtime.block_on(serve(flags, config, listener)).inspect_err(|_| unlink(&flags.socket))
}

fn unlink(socket: &str) {
    if let Err(error) = remove_socket(&SocketPath::parse(socket)) {
        warn!("the socket is left behind: {error}");
    }
}

/// Moves the listening socket away from standard input, which becomes `/dev/null`.
fn take_listener() -> io::Result<UnixListener> {
    let listener = UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Fails on anything but a socket.
    listener.local_addr()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(flags: &Flags, config: Config, listener: UnixListener) -> Result<(), DaemonError> {
    let listener = tokio::net::UnixListener::from_std(listener).map_err(DaemonError::Listener)?;
    let publisher = Publisher::start(&std::env::var("TTRPC_ADDRESS").unwrap_or_default(), &flags.namespace);
    let ended = Arc::new(Notify::new());
    let launcher = Box::new(MicroVms::new(config, &flags.socket, &flags.address));
    let service = Service::new(&flags.namespace, launcher, publisher, Arc::clone(&ended));
    let mut server = Server::new().add_listener(Listener::from(listener)).register_service(service.register());
    server.start().await.map_err(DaemonError::Serve)?;
    ended.notified().await;
    service.finish().await;
    info!("no task is left: shutting down");
    // containerd takes the end of its connection for that of the shim: nothing may be left then.
    unlink(&flags.socket);
    if let Err(error) = server.shutdown().await {
        warn!("connections were cut: {error}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::api::ShutdownRequest;
    use containerd_shim_protos::shim_async::TaskClient;
    use tokio::net::UnixStream;
    use ttrpc::asynchronous::Client;
    use ttrpc::asynchronous::transport::Socket;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_gone_before_the_connections_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let flags = Flags { socket: format!("unix://{}", path.display()), ..Default::default() };
        let client = TaskClient::new(Client::new(Socket::new(UnixStream::connect(&path).await.unwrap())));
        let (asked, served) = tokio::join!(
            async {
                let asked = client.shutdown(ttrpc::context::Context::default(), &ShutdownRequest::default()).await;
                // Fails once the connection has ended.
                while client.shutdown(ttrpc::context::with_timeout(1_000_000_000), &Default::default()).await.is_ok() {}
                assert!(!path.exists());
                asked
            },
            serve(&flags, Config::defaults().unwrap(), listener),
        );
        asked.unwrap();
        served.unwrap();
    }
}
