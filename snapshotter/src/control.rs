//! The ttrpc face of the daemon, for shims: layers on demand, and requests for bakes.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join_all;
use supermachine::daemon::{
    Daemon, EnsureLayersRequest, EnsureLayersResponse, FindLayersRequest, RequestBakeRequest, RequestBakeResponse,
    ShowStartRequest, ShowStartResponse, create_daemon, request_bake_response,
};
use tokio::net::UnixListener;
use tracing::warn;
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::{Code, get_status};

use crate::bakes::{Asked, Bakes};
use crate::directory::Directory;
use crate::error::SnapshotError;
use crate::labels::Labels;
use crate::layers::{ConvertError, Layers};
use crate::record::{Id, Kind};
use crate::snapshots::Snapshots;

/// What shims may ask for.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) directory: Arc<Directory>,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) layers: Layers,
    pub(crate) bakes: Bakes,
    pub(crate) labels: Labels,
}

/// Starts answering. The server is to be shut down by the caller.
pub(crate) async fn serve(control: Control, listener: UnixListener) -> ttrpc::Result<ttrpc::asynchronous::Server> {
    let mut server = ttrpc::asynchronous::Server::new()
        .add_listener(listener.into())
        .register_service(create_daemon(Arc::new(control)));
    server.start().await?;
    Ok(server)
}

fn refusal(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

impl Control {
    /// Finds the committed snapshots whose `fs` directories these are.
    async fn identify(&self, directories: &[String]) -> ttrpc::Result<Vec<Id>> {
        let snapshots = Arc::clone(&self.snapshots);
        let kinds = tokio::task::spawn_blocking(move || snapshots.kinds()).await;
        let kinds = kinds.map_err(|error| refusal(Code::INTERNAL, error))?;
        let kinds = kinds.map_err(|error| refusal(Code::INTERNAL, supermachine::chain(&error)))?;
        let identify = |text: &String| {
            let id = self.directory.owner_of(Path::new(text)).ok_or_else(|| {
                let root = self.directory.snapshots().display();
                refusal(Code::INVALID_ARGUMENT, format!("{text:?} isn't a directory {root}/<id>/fs"))
            })?;
            let kind = kinds
                .get(&id)
                .ok_or_else(|| refusal(Code::NOT_FOUND, format!("there is no snapshot with the directory {text:?}")))?;
            if *kind != Kind::Committed {
                return Err(refusal(Code::INVALID_ARGUMENT, format!("the snapshot of {text:?} is no layer")));
            }
            Ok(id)
        };
        directories.iter().map(identify).collect()
    }

    /// The path of one squashfs file.
    async fn ensure(&self, id: Id) -> ttrpc::Result<String> {
        match self.layers.convert_now(id).await {
            Ok(path) => Ok(path.display().to_string()),
            Err(failure) => {
                let code = match *failure {
                    ConvertError::ToolMissing => Code::FAILED_PRECONDITION,
                    ConvertError::Cancelled => Code::UNAVAILABLE,
                    ConvertError::Tool(_)
                    | ConvertError::Failed { .. }
                    | ConvertError::Stream(_)
                    | ConvertError::Publish { .. } => Code::INTERNAL,
                };
                Err(refusal(
                    code,
                    format!("the layer of snapshot {id} can't be made: {}", supermachine::chain(&*failure)),
                ))
            }
        }
    }
}

#[async_trait]
impl Daemon for Control {
    async fn ensure_layers(
        &self,
        _context: &TtrpcContext,
        request: EnsureLayersRequest,
    ) -> ttrpc::Result<EnsureLayersResponse> {
        let wanted = self.identify(&request.lower_directories).await?;
        let layers = try_join_all(wanted.into_iter().map(|id| self.ensure(id))).await?;
        Ok(EnsureLayersResponse { layers, ..Default::default() })
    }

    async fn find_layers(
        &self,
        _context: &TtrpcContext,
        request: FindLayersRequest,
    ) -> ttrpc::Result<EnsureLayersResponse> {
        let snapshots = Arc::clone(&self.snapshots);
        let FindLayersRequest { containerd_namespace: namespace, chain_id, .. } = request;
        let found = tokio::task::spawn_blocking(move || snapshots.layers_of(&namespace, &chain_id)).await;
        let found = found.map_err(|error| refusal(Code::INTERNAL, error))?.map_err(|error| {
            let code = if matches!(error, SnapshotError::NotFound { .. }) { Code::NOT_FOUND } else { Code::INTERNAL };
            refusal(code, supermachine::chain(&error))
        })?;
        let layers = try_join_all(found.into_iter().map(|id| self.ensure(id))).await?;
        Ok(EnsureLayersResponse { layers, ..Default::default() })
    }

    async fn request_bake(
        &self,
        _context: &TtrpcContext,
        request: RequestBakeRequest,
    ) -> ttrpc::Result<RequestBakeResponse> {
        let asked = self.bakes.request(request).await.map_err(|error| {
            warn!(%error, "a bake was asked for");
            refusal(Code::INVALID_ARGUMENT, error)
        })?;
        let state = match asked {
            Asked::Queued => request_bake_response::State::QUEUED,
            Asked::Present => request_bake_response::State::PRESENT,
            Asked::Failed => request_bake_response::State::FAILED,
            Asked::Off => request_bake_response::State::DISABLED,
        };
        Ok(RequestBakeResponse { state: state.into(), ..Default::default() })
    }

    async fn show_start(&self, _: &TtrpcContext, request: ShowStartRequest) -> ttrpc::Result<ShowStartResponse> {
        self.labels.show(request);
        Ok(ShowStartResponse::default())
    }
}
