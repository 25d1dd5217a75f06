//! `-info`: describes the runtime to containerd before any container exists.

use std::io::Write as _;

use containerd_shim_protos::protobuf::{self, Message as _};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use thiserror::Error;

use crate::RUNTIME_NAME;

/// Why the description could not be given.
#[derive(Debug, Error)]
pub(crate) enum InfoError {
    /// The message could not be encoded.
    #[error("encode the runtime description")]
    Encode(#[source] protobuf::Error),
    /// Standard output is gone.
    #[error("write the runtime description")]
    Write(#[source] std::io::Error),
}

/// Prints a `RuntimeInfo`. The runtime options on standard input change nothing in it, so they stay unread.
pub(crate) fn run() -> Result<(), InfoError> {
    let info = RuntimeInfo {
        name: RUNTIME_NAME.to_owned(),
        version: Some(RuntimeVersion { version: env!("CARGO_PKG_VERSION").to_owned(), ..Default::default() }).into(),
        ..Default::default()
    };
    let bytes = info.write_to_bytes().map_err(InfoError::Encode)?;
    std::io::stdout().write_all(&bytes).map_err(InfoError::Write)
}
