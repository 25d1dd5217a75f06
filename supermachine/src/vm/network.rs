//! A VM, as its network needs it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use agent_proto::{AgentClient, ConfigureNetworkRequest, DIAL_PORT, DIALLED, RemoveInterfaceRequest, encode_dial};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::context::with_duration;
use vmm_api::{Reply, Request};

use super::{Vm, ask, stream};
use crate::launch::Attachments;
use crate::network::{DialError, Guest, NetworkError};
use crate::vmm::Process;

/// How long the agent may take to configure the network card, which waits for the link.
const NETWORK_WITHIN: Duration = Duration::from_secs(10);
/// How long the agent may take to reach an address, or not to: a little longer than it tries.
const DIAL_WITHIN: Duration = Duration::from_secs(15);

/// A VM that may end meanwhile.
struct Reached {
    process: Weak<Process>,
    agent: AgentClient,
}

/// The VM for its network.
pub(super) fn guest(vm: &Vm) -> Arc<dyn Guest> {
    Arc::new(Reached { process: Arc::downgrade(&vm.process), agent: vm.agent().clone() })
}

#[async_trait::async_trait]
impl Guest for Reached {
    async fn attach(&self, card: usize, tap: OwnedFd) -> Result<(), NetworkError> {
        let process = self.process.upgrade().ok_or(NetworkError::Gone)?;
        let mut attachments = Attachments::default();
        let request = Request::AttachNetwork { card: number(card), tap: attachments.attach(&tap) };
        ask(&process, &request, &attachments, &Reply::Attached).await.map_err(NetworkError::Vmm)
    }

    async fn configure(&self, interface: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
        let configured = self.agent.configure_network(with_duration(NETWORK_WITHIN), interface).await;
        let refused = |source| NetworkError::Agent { interface: interface.name.clone(), source: Box::new(source) };
        configured.map(drop).map_err(refused)
    }

    async fn remove(&self, card: usize) -> Result<(), NetworkError> {
        let request = RemoveInterfaceRequest { card: number(card).into(), ..Default::default() };
        let removed = self.agent.remove_interface(with_duration(NETWORK_WITHIN), &request).await;
        let process = self.process.upgrade().ok_or(NetworkError::Gone)?;
        let request = Request::DetachNetwork { card: number(card) };
        // In any case: nothing is to come and go any more.
        let detached = ask(&process, &request, &Attachments::default(), &Reply::Detached).await;
        removed.map_err(|source| NetworkError::Remove(Box::new(source)))?;
        detached.map_err(NetworkError::Vmm)
    }

    async fn dial(&self, address: SocketAddr) -> Result<UnixStream, DialError> {
        let process = self.process.upgrade().ok_or(DialError::Gone)?;
        let mut ours = stream::connect(&process, DIAL_PORT, &encode_dial(address)).await.map_err(DialError::Stream)?;
        drop(process);
        match timeout(DIAL_WITHIN, ours.read_u8()).await {
            Ok(Ok(DIALLED)) => Ok(ours),
            Ok(_closed) => Err(DialError::Refused { address }),
            Err(_elapsed) => Err(DialError::Silent { seconds: DIAL_WITHIN.as_secs() }),
        }
    }
}

/// A card's number as it travels.
fn number(card: usize) -> u8 {
    u8::try_from(card).unwrap_or(u8::MAX)
}
