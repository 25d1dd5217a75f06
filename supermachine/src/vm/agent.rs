//! The connection to a guest's agent.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_proto::{AgentClient, ResumeRequest};
use tokio::net::UnixStream;
use ttrpc::r#async::{Client, transport::Socket};
use vmm_api::{ADDED_MEMORY, AGENT_PORT, Request, Shape};

use crate::launch::Attachments;
use crate::vm::error::StartError;
use crate::vm::stream::fill_random;
use crate::vmm::Process;

/// Random bytes that a VM's generator is seeded with; the agent's protocol wants exactly these many.
const ENTROPY_BYTES: usize = 64;

/// The connection to an agent.
pub(crate) struct Agent {
    pub(crate) client: AgentClient,
    /// The client's own socket once more, to end the connection no matter who holds clones of the client.
    socket: StdStream,
}

impl Agent {
    /// Asks the VMM for a connection. Requests may be made at once: they wait in the socket until the guest listens.
    pub(crate) fn connect(process: &Process) -> Result<Self, StartError> {
        let (ours, theirs) = StdStream::pair().map_err(StartError::Io)?;
        ours.set_nonblocking(true).map_err(StartError::Io)?;
        let socket = ours.try_clone().map_err(StartError::Io)?;
        let ours = UnixStream::from_std(ours).map_err(StartError::Io)?;
        let mut attachments = Attachments::default();
        let request = Request::Connect { port: AGENT_PORT, stream: attachments.attach(&theirs) };
        process.send(&request, &attachments).map_err(StartError::Vmm)?;
        Ok(Self { client: AgentClient::new(Client::new(Socket::new(ours))), socket })
    }

    /// Ends the connection.
    pub(crate) fn close(self) {
        // It may have been closed by the other side.
        let _gone = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// What makes a VM this one and no clone of another.
pub(crate) fn resume_request(hostname: &str, shape: Shape) -> io::Result<ResumeRequest> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    fill_random(&mut entropy)?;
    Ok(ResumeRequest {
        entropy,
        realtime_ns: realtime_ns()?,
        hostname: hostname.to_owned(),
        vcpus: shape.vcpus.into(),
        added_memory_start: ADDED_MEMORY,
        added_memory_bytes: shape.added_bytes,
        ..Default::default()
    })
}

/// The host's wall clock, in nanoseconds since the epoch. Fails if the host's clock is set to what a guest's can't be.
pub fn realtime_ns() -> io::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    u64::try_from(now.as_nanos()).map_err(io::Error::other)
}
