//! The gRPC face of [`Snapshots`]: conversions and codes.

use std::collections::HashMap;
use std::sync::Arc;

use prost_types::Timestamp;
use supermachine::ErrorKind;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::{debug, error};

use crate::error::SnapshotError;
use crate::exports::Exports;
use crate::mounts::Mount;
use crate::record::{Kind, Labels, Moment, Named};
use crate::snapshots::{Commit, Snapshots};
use api::snapshots_server::Snapshots as Service;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]
pub(crate) mod api {
    tonic::include_proto!("containerd.services.snapshots.v1");
}

/// Snapshots per message of a List answer; with their labels they stay far below gRPC's 4 MiB.
const LIST_CHUNK: usize = 64;

/// Serves containerd.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotService {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) exports: Exports,
}

impl SnapshotService {
    /// Runs a blocking operation on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        call: &'static str,
        operation: impl FnOnce(&Snapshots) -> Result<T, SnapshotError> + Send + 'static,
    ) -> Result<T, Status> {
        let snapshots = Arc::clone(&self.snapshots);
        match tokio::task::spawn_blocking(move || operation(&snapshots)).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(failure)) => Err(status(call, &failure)),
            Err(panicked) => {
                error!(call, error = supermachine::chain(&panicked), "an operation ended without a result");
                Err(Status::internal("the operation ended without a result: see the snapshotter's log"))
            }
        }
    }
}

/// The codes are part of the contract: containerd's unpacker and garbage collector decide by them.
fn status(call: &'static str, failure: &SnapshotError) -> Status {
    let text = supermachine::chain(failure);
    let status = match failure {
        SnapshotError::NotFound { .. } | SnapshotError::ParentNotFound { .. } => Status::not_found(text),
        SnapshotError::Exists { .. } => Status::already_exists(text),
        SnapshotError::NotActive { .. }
        | SnapshotError::NotMountable { .. }
        | SnapshotError::HasChildren { .. }
        | SnapshotError::HoldsDisk { .. } => Status::failed_precondition(text),
        SnapshotError::ParentNotCommitted { .. }
        | SnapshotError::ParentChanged { .. }
        | SnapshotError::Immutable { .. }
        | SnapshotError::LongLabel { .. }
        | SnapshotError::Empty { .. }
        | SnapshotError::Filter { .. } => Status::invalid_argument(text),
        SnapshotError::Export(failure) => match failure.kind() {
            ErrorKind::FailedPrecondition => Status::failed_precondition(text),
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => Status::unavailable(text),
            _ => Status::internal(text),
        },
        SnapshotError::Io { .. } | SnapshotError::Record { .. } | SnapshotError::Database { .. } => {
            Status::internal(text)
        }
    };
    match status.code() {
        tonic::Code::Internal => error!(call, error = status.message(), "failed"),
        code => debug!(call, ?code, error = status.message(), "refused"),
    }
    status
}

fn to_labels(labels: HashMap<String, String>) -> Labels {
    labels.into_iter().collect()
}

fn to_mounts(mount: Mount) -> Vec<api::Mount> {
    let Mount { kind, source, options } = mount;
    vec![api::Mount { r#type: kind.to_owned(), source, target: String::new(), options }]
}

fn to_timestamp(moment: Moment) -> Timestamp {
    let Moment(since_1970) = moment;
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: i32::try_from(since_1970.subsec_nanos()).unwrap_or_default() }
}

fn to_info(snapshot: Named) -> api::Info {
    let Named { name, record } = snapshot;
    let kind = match record.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name,
        parent: record.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(to_timestamp(record.created)),
        updated_at: Some(to_timestamp(record.updated)),
        labels: record.labels.into_iter().collect(),
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for SnapshotService {
    async fn prepare(&self, request: Request<api::PrepareSnapshotRequest>) -> Answer<api::PrepareSnapshotResponse> {
        let api::PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let labels = to_labels(labels);
        let mount = self.run("Prepare", move |s| s.create(Kind::Active, &key, &parent, labels)).await?;
        Ok(Response::new(api::PrepareSnapshotResponse { mounts: to_mounts(mount) }))
    }

    async fn view(&self, request: Request<api::ViewSnapshotRequest>) -> Answer<api::ViewSnapshotResponse> {
        let api::ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let labels = to_labels(labels);
        let mount = self.run("View", move |s| s.create(Kind::View, &key, &parent, labels)).await?;
        Ok(Response::new(api::ViewSnapshotResponse { mounts: to_mounts(mount) }))
    }

    async fn mounts(&self, request: Request<api::MountsRequest>) -> Answer<api::MountsResponse> {
        let key = request.into_inner().key;
        let (mount, ahead) = self.run("Mounts", move |s| s.mounts(&key)).await?;
        if let Some(id) = ahead {
            self.exports.bring(id).await.map_err(|failure| status("Mounts", &failure.into()))?;
        }
        Ok(Response::new(api::MountsResponse { mounts: to_mounts(mount) }))
    }

    async fn commit(&self, request: Request<api::CommitSnapshotRequest>) -> Answer<()> {
        let api::CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let commit = Commit { key, name, labels: to_labels(labels), parent };
        self.run("Commit", move |s| s.commit(commit)).await.map(Response::new)
    }

    async fn remove(&self, request: Request<api::RemoveSnapshotRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        let id = self.run("Remove", move |s| s.remove(&key)).await?;
        self.exports.forget(id);
        Ok(Response::new(()))
    }

    async fn stat(&self, request: Request<api::StatSnapshotRequest>) -> Answer<api::StatSnapshotResponse> {
        let key = request.into_inner().key;
        let snapshot = self.run("Stat", move |s| s.stat(&key)).await?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(to_info(snapshot)) }))
    }

    async fn update(&self, request: Request<api::UpdateSnapshotRequest>) -> Answer<api::UpdateSnapshotResponse> {
        let api::UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("the request has no info"))?;
        let fields = update_mask.unwrap_or_default().paths;
        let labels = to_labels(info.labels);
        let snapshot = self.run("Update", move |s| s.update(&info.name, &labels, &fields)).await?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(to_info(snapshot)) }))
    }

    type ListStream = ReceiverStream<Result<api::ListSnapshotsResponse, Status>>;

    async fn list(&self, request: Request<api::ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let filters = request.into_inner().filters;
        let mut rest = self.run("List", move |s| s.list(&filters)).await?.into_iter();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let info: Vec<_> = rest.by_ref().take(LIST_CHUNK).map(to_info).collect();
                // A failed send means that the client is gone.
                if info.is_empty() || sender.send(Ok(api::ListSnapshotsResponse { info })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn usage(&self, request: Request<api::UsageRequest>) -> Answer<api::UsageResponse> {
        let key = request.into_inner().key;
        let usage = self.run("Usage", move |s| s.usage(&key)).await?;
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Response::new(api::UsageResponse { size: number(usage.bytes), inodes: number(usage.inodes) }))
    }

    async fn cleanup(&self, _request: Request<api::CleanupRequest>) -> Answer<()> {
        self.run("Cleanup", Snapshots::cleanup).await.map(Response::new)
    }
}
