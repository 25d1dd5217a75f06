//! The node daemon, seen from whoever starts containers.

use std::path::{Path, PathBuf};

pub use crate::generated::daemon::*;
pub use crate::generated::daemon_ttrpc::{Daemon, DaemonClient, create_daemon};

/// The daemon can't be reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "the snapshotter daemon does not answer on {}; start it with `systemctl start supermachine-snapshotter`, \
     or set `paths.daemon_socket`",
    socket.display()
)]
pub struct DaemonError {
    /// Its socket.
    pub socket: PathBuf,
    /// Why.
    #[source]
    pub source: Box<ttrpc::Error>,
}

/// Connects to the daemon. Needs a tokio runtime.
pub async fn connect(socket: &Path) -> Result<DaemonClient, DaemonError> {
    let client = ttrpc::r#async::Client::connect(&format!("unix://{}", socket.display()))
        .await
        .map_err(|source| DaemonError { socket: socket.to_owned(), source: Box::new(source) })?;
    Ok(DaemonClient::new(client))
}
