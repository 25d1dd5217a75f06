//! The node daemon, asked for what starts need of it.

use std::path::PathBuf;
use std::time::Duration;

use supermachine::StartRecord;
use supermachine::daemon::{self, EnsureLayersRequest, RequestBakeRequest, ShowStartRequest};
use tracing::{debug, info, warn};
use ttrpc::context::with_duration;

use crate::bundle::EnsureLayers;

/// How long it may take to take note of something.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Asks the daemon for a bake, so that the next start of this shape restores. Failing that, the next is cold as well.
pub(super) async fn request_bake(socket: PathBuf, request: RequestBakeRequest) {
    let client = match daemon::connect(&socket).await {
        Ok(client) => client,
        Err(error) => return warn!("no bake was asked for: {}", supermachine::chain(&error)),
    };
    match client.request_bake(with_duration(ANSWER_WITHIN), &request).await {
        Ok(response) => info!(state = ?response.state, "asked for a bake"),
        Err(error) => warn!("no bake was asked for: {error}"),
    }
}

/// Has the daemon tell a containerd how a container was started. Nobody needs that it succeeds.
pub(super) async fn show_start(socket: PathBuf, containerd: String, start: &StartRecord) {
    let StartRecord { mode, reason, .. } = start;
    let (mode, reason) = match start.joined {
        true => ("joined".to_owned(), format!("the machine of its group, which was {mode}: {reason}")),
        false => (mode.to_string(), reason.clone()),
    };
    let request = ShowStartRequest {
        containerd_address: containerd,
        containerd_namespace: start.namespace.clone(),
        container_id: start.id.clone(),
        mode,
        reason,
        ..Default::default()
    };
    let shown = async {
        let client = daemon::connect(&socket).await.map_err(|error| supermachine::chain(&error))?;
        client.show_start(with_duration(ANSWER_WITHIN), &request).await.map_err(|error| error.to_string())
    };
    if let Err(error) = shown.await {
        debug!(error, "how the container was started isn't shown");
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
