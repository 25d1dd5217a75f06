//! The daemon as a whole: what is opened at start, in which order, and closed at the end.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use sd_notify::NotifyState;
use supermachine_config::Config;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tracing::{error, info, warn};

use crate::bakes::Bakes;
use crate::control::{self, Control};
use crate::directory::Directory;
use crate::exports::Exports;
use crate::labels::Labels;
use crate::layers::{Layers, Workers, check_tool};
use crate::metastore::Metastore;
use crate::service::SnapshotService;
use crate::service::api::snapshots_server::SnapshotsServer;
use crate::snapshots::Snapshots;
use crate::socket::{Inherited, SocketFile};
use crate::template;

/// A daemon whose directory is open and repaired.
#[derive(Debug)]
pub(crate) struct Daemon {
    config: Config,
    directory: Arc<Directory>,
    snapshots: Arc<Snapshots>,
    workers: Workers,
}

impl Daemon {
    /// Locks the directory, puts right what a crash left in it, and starts converting.
    pub(crate) fn open(config: Config) -> anyhow::Result<Self> {
        let directory = Arc::new(Directory::open(&config.paths.snapshotter)?);
        let metastore = Metastore::open(&directory.database())?;
        if let Err(missing) = check_tool() {
            error!(
                error = supermachine::chain(&missing),
                "layers can't be converted: containers in virtual machines won't start"
            );
        }
        if let Err(failure) = template::ensure(&directory.template(), config.upper.size.0) {
            error!(
                error = supermachine::chain(&failure),
                "no template of writable disks: containers in virtual machines won't start"
            );
        }
        let (layers, workers) = Layers::start(Arc::clone(&directory)).context("can't start threads")?;
        let snapshots = Arc::new(Snapshots::new(Arc::clone(&directory), metastore, layers));
        snapshots.recover().context("can't put the snapshots in order")?;
        Ok(Self { config, directory, snapshots, workers })
    }

    /// Serves until `stop` completes, then ends what is running.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { config, directory, snapshots, workers } = self;
        let layers = snapshots.layers().clone();
        // Dropped last: the lock must outlive the sockets' files, which a next daemon replaces.
        let _locked = Arc::clone(&directory);
        let mut inherited = Inherited::take().context("can't take the service manager's sockets")?;
        let (listener, _socket) = listen(&mut inherited, &config.paths.snapshotter_socket)?;
        let (control_listener, _control_socket) = listen(&mut inherited, &config.paths.daemon_socket)?;
        let exports = Exports::new(config.clone(), Arc::clone(&directory));
        let (bakes, builder) = Bakes::start(config).context("can't start the bake builder")?;
        let control = Control {
            directory,
            snapshots: Arc::clone(&snapshots),
            layers: layers.clone(),
            bakes: bakes.clone(),
            labels: Labels::default(),
        };
        let mut control = control::serve(control, control_listener).await.context("can't serve shims")?;
        let (stopping, stopped) = oneshot::channel::<()>();
        let server = tonic::transport::Server::builder()
            .add_service(SnapshotsServer::new(SnapshotService { snapshots, exports }))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                // A sender that is gone stops the server too.
                drop(stopped.await);
            });
        let mut server = tokio::spawn(server);

        notify(NotifyState::Ready);
        info!(version = env!("CARGO_PKG_VERSION"), "ready");
        tokio::select! {
            () = stop => info!("stopping"),
            ended = &mut server => return Err(anyhow!("the snapshot service ended by itself: {ended:?}")),
        }
        notify(NotifyState::Stopping);
        bakes.close();
        layers.close();
        drop(stopping);
        control.shutdown().await.context("can't stop serving shims")?;
        if tokio::time::timeout(GRACE, server).await.is_err() {
            warn!("some clients kept their connections open");
        }
        tokio::task::spawn_blocking(move || {
            workers.join();
            builder.join();
        })
        .await?;
        Ok(())
    }
}

fn listen(inherited: &mut Inherited, path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    inherited.listen(path).with_context(|| format!("can't listen at {}", path.display()))
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
