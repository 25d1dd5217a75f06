//! The writable layer, given to the host.

use std::os::fd::OwnedFd;

use agent_proto::{ExportUpperRequest, ExportUpperResponse};

use super::Server;
use crate::guest::Guest;
use crate::refusal::{Kind, Refusal};

impl<G: Guest> Server<G> {
    pub(super) async fn export(&self, request: &ExportUpperRequest) -> Result<ExportUpperResponse, Refusal> {
        let _alone = self.exporting.lock().await;
        let Some(archive) = self.claim_blocking(request.stream).await? else {
            return Err(Refusal::new(Kind::InvalidArgument, "an export needs a stream"));
        };
        self.guest.export(request, archive).await
    }

    /// Waits for a stream that is to be read or written by a thread of its own.
    pub(super) async fn claim_blocking(&self, token: u64) -> Result<Option<OwnedFd>, Refusal> {
        let Some(stream) = self.streams.claim(token).await? else { return Ok(None) };
        let blocking = stream.into_blocking();
        blocking.map(Some).map_err(|error| Refusal::new(Kind::Internal, format!("use a stream: {error}")))
    }
}
