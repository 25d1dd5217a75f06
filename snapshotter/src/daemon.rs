//! The daemon as a whole: what is opened at start, in which order, and closed at the end.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use sd_notify::NotifyState;
use supermachine_config::Config;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tracing::{error, info, warn};

use crate::directory::Directory;
use crate::error::chain;
use crate::layers::{Layers, Workers, check_tool};
use crate::metastore::Metastore;
use crate::service::SnapshotService;
use crate::service::api::snapshots_server::SnapshotsServer;
use crate::snapshots::Snapshots;
use crate::{socket, template};

/// A daemon whose directory is open and repaired.
#[derive(Debug)]
pub(crate) struct Daemon {
    config: Config,
    snapshots: Arc<Snapshots>,
    workers: Workers,
}

impl Daemon {
    /// Locks the directory, puts right what a crash left in it, and starts converting.
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let directory = Arc::new(Directory::open(&config.paths.snapshotter)?);
        let metastore = Metastore::open(&directory.database())?;
        if let Err(missing) = check_tool() {
            error!(error = chain(&missing), "layers can't be converted: containers in virtual machines won't start");
        }
        if let Err(failure) = template::ensure(&directory.template(), config.upper.size.0) {
            error!(error = chain(&failure), "no template of writable disks: containers in virtual machines won't start");
        }
        let (layers, workers) = Layers::start(Arc::clone(&directory)).context("can't start threads")?;
        let snapshots = Arc::new(Snapshots::new(directory, metastore, layers));
        snapshots.recover().context("can't put the snapshots in order")?;
        Ok(Self { config, snapshots, workers })
    }

    /// Serves until `stop` completes, then ends what is running.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, snapshots, workers } = self;
        let path = &config.paths.snapshotter_socket;
        let (listener, _socket) = socket::listen(path).with_context(|| format!("can't listen at {}", path.display()))?;
        let (stopping, mut stopped) = watch::channel(false);
        let server = tonic::transport::Server::builder()
            .add_service(SnapshotsServer::new(SnapshotService(Arc::clone(&snapshots))))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                if stopped.wait_for(|stop| *stop).await.is_err() {
                    warn!("stopping: the daemon's main task is gone");
                }
            });
        let server = tokio::spawn(server);

        notify(NotifyState::Ready);
        info!(socket = %path.display(), version = env!("CARGO_PKG_VERSION"), "ready");
        stop.await;
        info!("stopping");
        notify(NotifyState::Stopping);
        snapshots.layers().close();
        stopping.send_replace(true);
        let ended = tokio::time::timeout(GRACE, server).await;
        tokio::task::spawn_blocking(move || workers.join()).await?;
        match ended {
            Ok(served) => Ok(served??),
            Err(_elapsed) => {
                warn!("some clients kept their connections open");
                Ok(())
            }
        }
    }
}

/// containerd keeps its connection open all the time: a stop doesn't wait for it longer than this.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager can't be notified");
    }
}

#[cfg(test)]
mod tests;
