//! ExportUpper: what a container has written, for the node daemon.

use std::path::Path;

use supermachine::shim::{ExportUpperRequest, ExportUpperResponse, Shim};
use tracing::{Instrument as _, info_span, warn};
use ttrpc::asynchronous::TtrpcContext;

use super::Service;
use crate::error::ServiceError;
use crate::sandbox::Export;

impl Service {
    async fn run_export(&self, request: &ExportUpperRequest) -> Result<ExportUpperResponse, ServiceError> {
        let container = self.container(&request.container_id)?;
        let exported = container.sandbox.export(Path::new(&request.directory), &request.known).await?;
        let Export { generation, is_written } = exported;
        Ok(ExportUpperResponse { generation, as_known: !is_written, ..Default::default() })
    }
}

#[async_trait::async_trait]
impl Shim for Service {
    /// Ended with its caller, who alone can use what it makes.
    async fn export_upper(&self, _: &TtrpcContext, request: ExportUpperRequest) -> ttrpc::Result<ExportUpperResponse> {
        let span = info_span!("export", ns = self.shared.namespace, id = request.container_id);
        let exported = self.run_export(&request).instrument(span).await;
        Ok(exported.inspect_err(|error| warn!("{}", supermachine::chain(error)))?)
    }
}
