//! Task events to containerd, in the order they were published.
//!
//! One queue and one sender: an event leaves only after the one before it was taken, so a reconnect reorders nothing.
//! While containerd is away the queue grows up to its bound; what it can't hold is dropped and logged.

use std::time::Duration;

use containerd_shim::event::Event;
use containerd_shim::util::{convert_to_any, timestamp};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::EventsClient;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{error, warn};
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;

/// Events kept while containerd is away.
const QUEUE_LENGTH: usize = 4096;
/// containerd's own limit for taking one event.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an event that containerd answers with an error is offered again.
const MAX_RETRIES: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

enum Item {
    Event(Box<Envelope>),
    Flush(oneshot::Sender<()>),
}

/// The way to containerd's event service. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Item>,
}

impl Publisher {
    /// Starts the sender; needs a tokio runtime. `address` is containerd's ttrpc socket.
    pub(crate) fn start(address: &str, namespace: &str) -> Self {
        let (queue, items) = mpsc::channel(QUEUE_LENGTH);
        let address = address.strip_prefix("unix://").unwrap_or(address).to_owned();
        tokio::spawn(Sender { address, client: None }.run(items));
        Self { namespace: namespace.to_owned(), queue }
    }

    /// Queues an event. Never waits.
    pub(crate) fn publish(&self, event: impl Event) {
        let topic = event.topic();
        match self.envelope(topic.clone(), event) {
            Ok(envelope) => {
                if self.queue.try_send(Item::Event(Box::new(envelope))).is_err() {
                    error!(topic, "event dropped: {QUEUE_LENGTH} are waiting for containerd already");
                }
            }
            Err(source) => error!(topic, "event dropped: {source}"),
        }
    }

    /// Waits until everything queued so far was taken, at most for `limit`.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (done, taken) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Item::Flush(done)).await.is_ok() {
                // An error means that the sender is gone, and then there is nothing to wait for.
                drop(taken.await);
            }
        };
        if timeout(limit, flushed).await.is_err() {
            warn!("containerd did not take the last events within {limit:?}");
        }
    }

    fn envelope(&self, topic: String, event: impl Event) -> containerd_shim::Result<Envelope> {
        Ok(Envelope {
            timestamp: Some(timestamp()?).into(),
            namespace: self.namespace.clone(),
            topic,
            event: Some(convert_to_any(Box::new(event))?).into(),
            ..Default::default()
        })
    }
}

struct Sender {
    address: String,
    client: Option<EventsClient>,
}

impl Sender {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(item) = items.recv().await {
            match item {
                Item::Event(envelope) => self.deliver(*envelope).await,
                // Whoever asked may have stopped waiting.
                Item::Flush(done) => drop(done.send(())),
            }
        }
    }

    /// Offers an event until containerd takes it or has refused it too often.
    async fn deliver(&mut self, envelope: Envelope) {
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
        let (mut refusals, mut backoff) = (0, FIRST_BACKOFF);
        loop {
            match self.forward(&request).await {
                Ok(()) => return,
                Err(refusal @ ttrpc::Error::RpcStatus(_)) => {
                    refusals += 1;
                    if refusals > MAX_RETRIES {
                        return error!(topic, "event dropped: containerd refused it {refusals} times: {refusal}");
                    }
                }
                // Not connected: containerd is restarting.
                Err(_) => self.client = None,
            }
            sleep(backoff).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    async fn forward(&mut self, request: &ForwardRequest) -> ttrpc::Result<()> {
        let client = match &self.client {
            Some(client) => client,
            None => {
                let stream = UnixStream::connect(&self.address)
                    .await
                    .map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
                self.client.insert(EventsClient::new(Client::new(Socket::new(stream))))
            }
        };
        client.forward(ttrpc::context::with_duration(CALL_TIMEOUT), request).await.map(drop)
    }
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
