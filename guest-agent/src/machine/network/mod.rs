//! The machine's network: its card, made the interface that the host has for this machine.

mod card;
mod messages;
mod netlink;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_proto::ConfigureNetworkRequest;
use tokio::time::{Instant, sleep};

use crate::refusal::{Kind, Refusal};
pub(crate) use card::put_away as put_card_away;
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

/// Makes the card the interface that is described. The link is waited for before there are routes, since what is sent
/// until then is lost.
pub(super) async fn configure(wanted: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
    let index = card::take_out()?;
    let netlink = Netlink::open().map_err(kernel("open", "a netlink socket"))?;
    netlink.ask(messages::dress(index, wanted)?).map_err(kernel("set up", &wanted.name))?;
    configure_ipv6(wanted)?;
    netlink.ask(messages::raise(index)).map_err(kernel("bring up", &wanted.name))?;
    await_link(&wanted.name).await?;
    for address in &wanted.addresses {
        netlink.ask(messages::address(index, address)?).map_err(kernel("add address", format!("{address:?}")))?;
    }
    for route in &wanted.routes {
        netlink.ask(messages::route(index, route)?).map_err(kernel("add route", format!("{route:?}")))?;
    }
    Ok(())
}

/// The interface's address on the link is known to be its own: the host has used it, or looks for others that have.
fn configure_ipv6(wanted: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
    let settings = Path::new("/proc/sys/net/ipv6/conf").join(&wanted.name);
    if !settings.exists() {
        return Ok(());
    }
    for (name, value) in [("accept_dad", "0"), ("disable_ipv6", if wanted.ipv6 { "0" } else { "1" })] {
        let path = settings.join(name);
        std::fs::write(&path, value).map_err(kernel("write", path.display().to_string()))?;
    }
    Ok(())
}

async fn await_link(name: &str) -> Result<(), NetworkError> {
    let state: PathBuf = Path::new("/sys/class/net").join(name).join("operstate");
    let deadline = Instant::now() + DEADLINE;
    while !std::fs::read_to_string(&state).is_ok_and(|state| state.trim_end() == "up") {
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
