//! The machine's network: its card, made the interface that the host has for this machine.

mod apart;
mod messages;
mod netlink;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_proto::ConfigureNetworkRequest;
use tokio::time::{Instant, sleep};

use crate::refusal::{Kind, Refusal};
use apart::Card;
pub(crate) use apart::set_apart;
use netlink::Netlink;

/// How long the link may take to come up. The host has connected the card before it asks.
const DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// A network that can't be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("the machine has no network card")]
    NoCard,
    #[error("{field}: {value:?} is no address of 4, 6 or 16 bytes, as it should be")]
    NoAddress { field: &'static str, value: Vec<u8> },
    #[error("{action} {object}")]
    Kernel {
        action: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("the link of {name} doesn't come up within {} s", DEADLINE.as_secs())]
    NoLink { name: String },
}

impl From<NetworkError> for Refusal {
    fn from(error: NetworkError) -> Self {
        let kind = match &error {
            NetworkError::NoCard => Kind::FailedPrecondition,
            NetworkError::NoAddress { .. } | NetworkError::Kernel { .. } => Kind::InvalidArgument,
            NetworkError::NoLink { .. } => Kind::DeadlineExceeded,
        };
        Self::from_error(kind, &error)
    }
}

/// The machine's network, if it has a card.
#[derive(Debug)]
pub(crate) struct Network {
    card: Option<Card>,
    is_configured: AtomicBool,
}

impl Network {
    /// A network that isn't configured yet.
    pub(crate) fn new(card: Option<Card>) -> Self {
        Self { card, is_configured: AtomicBool::new(false) }
    }

    /// The namespace of containers made from now on, if it isn't the agent's.
    pub(super) fn namespace(&self) -> Option<PathBuf> {
        self.is_configured.load(Ordering::Acquire).then(|| apart::NAMESPACE.into())
    }

    /// Makes the card the interface that is described. The link is waited for before there are routes, since what is
    /// sent until then is lost.
    pub(super) async fn configure(&self, wanted: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
        let Card { netlink, index } = self.card.as_ref().ok_or(NetworkError::NoCard)?;
        netlink.ask(messages::dress(*index, wanted)?).map_err(kernel("set up", &wanted.name))?;
        if !wanted.ipv6 {
            disable_ipv6(&wanted.name).map_err(kernel("switch off IPv6 of", &wanted.name))?;
        }
        await_link(netlink, *index, &wanted.name).await?;
        for address in &wanted.addresses {
            netlink.ask(messages::address(*index, address)?).map_err(kernel("add address", format!("{address:?}")))?;
        }
        for route in &wanted.routes {
            netlink.ask(messages::route(*index, route)?).map_err(kernel("add route", format!("{route:?}")))?;
        }
        self.is_configured.store(true, Ordering::Release);
        Ok(())
    }
}

fn disable_ipv6(name: &str) -> io::Result<()> {
    let setting = Path::new("/proc/sys/net/ipv6/conf").join(name).join("disable_ipv6");
    apart::inside(|| if setting.exists() { std::fs::write(&setting, "1") } else { Ok(()) })
}

async fn await_link(netlink: &Netlink, index: u32, name: &str) -> Result<(), NetworkError> {
    let deadline = Instant::now() + DEADLINE;
    while !netlink.is_running(index).map_err(kernel("look at", name))? {
        if Instant::now() >= deadline {
            return Err(NetworkError::NoLink { name: name.to_owned() });
        }
        sleep(POLL).await;
    }
    Ok(())
}

fn kernel(action: &'static str, object: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
    let object = object.into();
    move |source| NetworkError::Kernel { action, object, source }
}
