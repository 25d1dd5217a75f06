//! A shim, seen from the node daemon.

pub use crate::generated::shim::*;
pub use crate::generated::shim_ttrpc::{Shim, ShimClient, create_shim};

/// Connects to the shim at a ttrpc address. Needs a tokio runtime.
pub async fn connect(address: &str) -> ttrpc::Result<ShimClient> {
    Ok(ShimClient::new(ttrpc::r#async::Client::connect(address).await?))
}
