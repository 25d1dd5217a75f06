//! A VM, as the host's sockets need it.

use std::sync::{Arc, Weak};

use agent_proto::{CALLED, SOCKET_NAME_BYTES, SOCKET_PORT};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::{Vm, stream};
use crate::sockets::{Guest, NoCall};
use crate::vm::StreamError;
use crate::vmm::{Process, VmmError};

/// A VM that may end meanwhile.
struct Reached(Weak<Process>);

/// The VM for the host's sockets.
pub(super) fn guest(vm: &Vm) -> Arc<dyn Guest> {
    Arc::new(Reached(Arc::downgrade(&vm.process)))
}

#[async_trait::async_trait]
impl Guest for Reached {
    async fn call(&self, name: &[u8; SOCKET_NAME_BYTES]) -> Result<UnixStream, NoCall> {
        let process = self.0.upgrade().ok_or(NoCall::Gone)?;
        let connected = stream::connect(&process, SOCKET_PORT, name).await;
        // It isn't to be kept by waiting.
        drop(process);
        let mut stream = connected.map_err(|error| match error {
            StreamError::Vmm(VmmError::Died { .. }) => NoCall::Gone,
            error => NoCall::Stream(error),
        })?;
        match stream.read_u8().await {
            Ok(CALLED) => Ok(stream),
            Ok(_) | Err(_) => Err(NoCall::Refused),
        }
    }
}
