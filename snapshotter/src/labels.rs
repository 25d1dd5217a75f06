//! Labels by which containerd's clients show how a container was started.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use prost_types::FieldMask;
use supermachine::daemon::ShowStartRequest;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tracing::debug;

use generated::containers_client::ContainersClient;
use generated::{Container, UpdateContainerRequest};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated code")]
pub(crate) mod generated {
    tonic::include_proto!("containerd.services.containers.v1");
}

/// How it was started, as `restored(image)` or `cold`.
const MODE: &str = "io.supermachine.start";
/// Why so.
const REASON: &str = "io.supermachine.start.reason";
/// containerd takes labels of 4096 bytes, name included (its `labels.Validate`).
const REASON_BYTES: usize = 1024;
/// Nobody waits for it.
const UPDATE_WITHIN: Duration = Duration::from_secs(30);
/// Sockets that are remembered. A host has one containerd, or one more for tests.
const MAX_SOCKETS: usize = 8;

/// Connections to containerds, by their sockets.
#[derive(Debug, Default)]
pub(crate) struct Labels(Mutex<HashMap<String, Channel>>);

impl Labels {
    /// Sets the labels of a container, in the background. That it has none is no harm: the log and `supermachine ls` say
    /// the same.
    pub(crate) fn show(&self, start: ShowStartRequest) {
        let channel = match self.channel(&start.containerd_address) {
            Ok(channel) => channel,
            Err(error) => return debug!(%error, address = start.containerd_address, "no socket of containerd's"),
        };
        let id = start.container_id.clone();
        tokio::spawn(async move {
            match ContainersClient::new(channel).update(update(start)).await {
                Ok(_) => {}
                // It was short.
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => debug!(id, message = status.message(), "how it was started isn't shown"),
            }
        });
    }

    /// Connects when it is first used, and again when it has to.
    fn channel(&self, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        if channels.len() >= MAX_SOCKETS {
            channels.clear();
        }
        let channel = Endpoint::from_shared(format!("unix://{address}"))?.timeout(UPDATE_WITHIN).connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Only these two labels: others may be set at the same time.
fn update(start: ShowStartRequest) -> Request<UpdateContainerRequest> {
    let reason = start.reason.chars().scan(0, |bytes, c| {
        *bytes += c.len_utf8();
        (*bytes <= REASON_BYTES).then_some(c)
    });
    let labels = [(MODE.to_owned(), start.mode), (REASON.to_owned(), reason.collect())];
    let mut request = Request::new(UpdateContainerRequest {
        container: Some(Container { id: start.container_id, labels: HashMap::from(labels) }),
        update_mask: Some(FieldMask { paths: [MODE, REASON].map(|name| format!("labels.{name}")).to_vec() }),
    });
    // What is no header is no namespace either: containerd says so.
    if let Ok(namespace) = start.containerd_namespace.parse() {
        request.metadata_mut().insert("containerd-namespace", namespace);
    }
    request
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::time::timeout;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Response, Status};

    use super::generated::UpdateContainerResponse;
    use super::generated::containers_server::{Containers, ContainersServer};
    use super::*;

    struct Containerd(UnboundedSender<(Option<String>, UpdateContainerRequest)>);

    #[tonic::async_trait]
    impl Containers for Containerd {
        async fn update(
            &self,
            request: Request<UpdateContainerRequest>,
        ) -> Result<Response<UpdateContainerResponse>, Status> {
            let namespace = request.metadata().get("containerd-namespace");
            let namespace = namespace.and_then(|value| value.to_str().ok()).map(str::to_owned);
            self.0.send((namespace, request.into_inner())).unwrap();
            Ok(Response::new(UpdateContainerResponse {}))
        }
    }

    #[tokio::test]
    async fn a_container_gets_two_labels_and_keeps_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("containerd.sock");
        let (sender, mut updates) = unbounded_channel();
        let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let server = tonic::transport::Server::builder().add_service(ContainersServer::new(Containerd(sender)));
        tokio::spawn(server.serve_with_incoming(listener));
        let labels = Labels::default();
        for _ in 0..2 {
            labels.show(ShowStartRequest {
                containerd_address: socket.display().to_string(),
                containerd_namespace: "k8s.io".to_owned(),
                container_id: "web".to_owned(),
                mode: "cold".to_owned(),
                reason: "\u{20ac}".repeat(2000),
                ..Default::default()
            });
            let (namespace, update) = timeout(Duration::from_secs(10), updates.recv()).await.unwrap().unwrap();
            assert_eq!(namespace.as_deref(), Some("k8s.io"));
            assert_eq!(update.update_mask.unwrap().paths, [format!("labels.{MODE}"), format!("labels.{REASON}")]);
            let container = update.container.unwrap();
            assert_eq!((container.id.as_str(), container.labels[MODE].as_str()), ("web", "cold"));
            assert_eq!(container.labels[REASON].len(), REASON_BYTES / 3 * 3);
        }
        assert_eq!(labels.0.lock().unwrap().len(), 1);
    }
}
