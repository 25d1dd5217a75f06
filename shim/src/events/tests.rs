//! A containerd that comes late, refuses, and goes away, against the one order of events.

use std::path::Path;
use std::sync::Arc;

use containerd_shim_protos::api::Empty;
use containerd_shim_protos::events::task::{TaskCreate, TaskExit, TaskStart};
use containerd_shim_protos::shim_async::{Events, create_events};
use tokio::sync::mpsc::UnboundedSender;
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::*;

/// Takes events, but only once `refusals` offers were turned down.
struct Containerd {
    seen: UnboundedSender<(String, String)>,
    refusals: std::sync::Mutex<u32>,
}

#[async_trait::async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let mut refusals = self.refusals.lock().unwrap();
        if *refusals > 0 {
            *refusals -= 1;
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(ttrpc::Code::INTERNAL, "not now")));
        }
        self.seen.send((request.envelope.namespace.clone(), request.envelope.topic.clone())).unwrap();
        Ok(Empty::default())
    }
}

async fn serve(path: &Path, refusals: u32, seen: UnboundedSender<(String, String)>) -> Server {
    let service = create_events(Arc::new(Containerd { seen, refusals: refusals.into() }));
    let mut server = Server::new().bind(&format!("unix://{}", path.display())).unwrap().register_service(service);
    server.start().await.unwrap();
    server
}

#[tokio::test]
async fn events_arrive_in_order_over_refusals_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let publisher = Publisher::start(&format!("unix://{}", path.display()), "ns");
    publisher.publish(TaskCreate::new());
    let mut server = serve(&path, 2, sender.clone()).await;
    publisher.publish(TaskStart::new());
    publisher.flush(Duration::from_secs(20)).await;
    server.shutdown().await.unwrap();
    drop(server);
    std::fs::remove_file(&path).unwrap();
    publisher.publish(TaskExit::new());
    let _server = serve(&path, 0, sender).await;
    publisher.flush(Duration::from_secs(20)).await;
    for topic in ["/tasks/create", "/tasks/start", "/tasks/exit"] {
        assert_eq!(seen.try_recv().unwrap(), ("ns".to_owned(), topic.to_owned()));
    }
}

#[tokio::test]
async fn an_event_refused_for_good_does_not_hold_up_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (sender, mut seen) = mpsc::unbounded_channel();
    let _server = serve(&path, MAX_RETRIES + 1, sender).await;
    let publisher = Publisher::start(path.to_str().unwrap(), "ns");
    publisher.publish(TaskCreate::new());
    publisher.publish(TaskStart::new());
    publisher.flush(Duration::from_secs(20)).await;
    assert_eq!(seen.try_recv().unwrap().1, "/tasks/start");
}
