//! The node daemon, asked for what starts need of it.

use std::path::PathBuf;
use std::time::Duration;

use supermachine::daemon::{self, EnsureLayersRequest, RequestBakeRequest};
use tracing::{info, warn};

use crate::bundle::EnsureLayers;

/// Asks the daemon for a bake, so that the next start of this shape restores. Failing that, the next is cold as well.
pub(super) async fn request_bake(socket: PathBuf, request: RequestBakeRequest) {
    let client = match daemon::connect(&socket).await {
        Ok(client) => client,
        Err(error) => return warn!("no bake was asked for: {}", supermachine::chain(&error)),
    };
    match client.request_bake(ttrpc::context::with_duration(Duration::from_secs(5)), &request).await {
        Ok(response) => info!(state = ?response.state, "asked for a bake"),
        Err(error) => warn!("no bake was asked for: {error}"),
    }
}

/// The snapshotter's daemon, asked for layers that aren't converted yet.
pub(super) struct LayerDaemon {
    pub(super) socket: PathBuf,
}

#[async_trait::async_trait]
impl EnsureLayers for LayerDaemon {
    async fn ensure(&self, directories: &[PathBuf]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error + Send + Sync>> {
        let client = daemon::connect(&self.socket).await?;
        let request = EnsureLayersRequest {
            lower_directories: directories.iter().map(|path| path.display().to_string()).collect(),
            ..Default::default()
        };
        // Converting a large layer takes as long as it takes; containerd's own time limit applies.
        let response = client.ensure_layers(ttrpc::context::Context::default(), &request).await?;
        if response.layers.len() != directories.len() {
            return Err(format!("the daemon answered with {} layers", response.layers.len()).into());
        }
        Ok(response.layers.into_iter().map(PathBuf::from).collect())
    }
}
