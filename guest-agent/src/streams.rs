//! Connections to the stream port, each of which carries one standard stream of one process. The host opens them and
//! names them by a token; a request names the tokens.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::descriptor::Descriptor;
use crate::refusal::{Kind, Refusal};

/// How long a connection waits for its request, and a request for its connection.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most connections that may wait for their request.
const MAX_WAITING: usize = 256;

/// Connections and requests that have not met yet.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    arrived: BTreeMap<u64, Descriptor>,
    claimed: BTreeMap<u64, oneshot::Sender<Descriptor>>,
}

impl Streams {
    /// Accepts connections for ever.
    pub(crate) async fn run(self: Arc<Self>, listener: Descriptor) {
        loop {
            let connection = listener.next_connection("a stream").await;
            drop(tokio::spawn(Arc::clone(&self).receive(connection)));
        }
    }

    /// Waits for the connection with this token. The token 0 names none.
    pub(crate) async fn claim(&self, token: u64) -> Result<Option<Descriptor>, Refusal> {
        if token == 0 {
            return Ok(None);
        }
        let receiver = {
            let mut state = self.lock();
            if let Some(connection) = state.arrived.remove(&token) {
                return Ok(Some(connection));
            }
            let (sender, receiver) = oneshot::channel();
            state.claimed.insert(token, sender);
            receiver
        };
        match timeout(DEADLINE, receiver).await {
            Ok(Ok(connection)) => Ok(Some(connection)),
            Ok(Err(_)) => Err(Refusal::new(Kind::InvalidArgument, format!("stream {token:#x} is claimed twice"))),
            Err(_) => {
                self.lock().claimed.remove(&token);
                let seconds = DEADLINE.as_secs();
                Err(Refusal::new(
                    Kind::DeadlineExceeded,
                    format!("no connection for stream {token:#x} within {seconds} s"),
                ))
            }
        }
    }

    async fn receive(self: Arc<Self>, connection: Descriptor) {
        let Ok(Ok(token)) = timeout(DEADLINE, read_token(&connection)).await else { return };
        if self.deliver(token, connection) {
            tokio::time::sleep(DEADLINE).await;
            self.lock().arrived.remove(&token);
        }
    }

    /// Hands a connection to whoever waits for it; answers whether it has to wait itself.
    fn deliver(&self, token: u64, connection: Descriptor) -> bool {
        let mut state = self.lock();
        if let Some(claim) = state.claimed.remove(&token) {
            // A claim that was given up in this moment: the connection closes.
            let _ = claim.send(connection);
            return false;
        }
        let room = token != 0 && state.arrived.len() < MAX_WAITING && !state.arrived.contains_key(&token);
        if room {
            state.arrived.insert(token, connection);
        }
        room
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_token(connection: &Descriptor) -> io::Result<u64> {
    let mut token = [0; 8];
    connection.read_exact(&mut token).await?;
    Ok(u64::from_le_bytes(token))
}
