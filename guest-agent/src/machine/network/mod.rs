//! The machine's network: its cards, made the interfaces that the host has for this machine.

mod apart;
mod messages;
mod netlink;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use agent_proto::ConfigureNetworkRequest;
use netlink_packet_route::RouteNetlinkMessage;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::refusal::{Kind, Refusal};
pub(crate) use apart::set_apart;
use apart::{Cards, Room, Rooms};
use netlink::Netlink;

/// How long the link may take to come up. The host has connected the card before it asks.
const DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// A network that can't be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("the machine has no network card {number}")]
    NoCard { number: u32 },
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
            NetworkError::NoCard { .. } => Kind::FailedPrecondition,
            NetworkError::NoAddress { .. } | NetworkError::Kernel { .. } => Kind::InvalidArgument,
            NetworkError::NoLink { .. } => Kind::DeadlineExceeded,
        };
        Self::from_error(kind, &error)
    }
}

/// Whose network namespace containers are in, from the first on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// One with a card, joined because there was a network before the first container.
    Apart,
    /// The agent's.
    Own,
}

/// A network card.
#[derive(Debug)]
struct Card {
    /// Of its interface, in its namespace.
    index: u32,
    /// Where it is. None is in reserve.
    home: Option<Home>,
    /// What it is, if it is an interface of containers.
    given: Option<ConfigureNetworkRequest>,
}

/// The machine's network, if it has cards.
#[derive(Debug)]
pub(crate) struct Network {
    rooms: Option<Rooms>,
    cards: Mutex<Vec<Card>>,
    home: OnceLock<Home>,
}

impl Network {
    /// A network in which nothing is configured yet.
    pub(crate) fn new(cards: Option<Cards>) -> Self {
        let (rooms, indices) = cards.map(|Cards { rooms, indices }| (rooms, indices)).unzip();
        let card = |(number, index)| Card { index, home: (number == 0).then_some(Home::Apart), given: None };
        let cards: Vec<Card> = (0..).zip(indices.unwrap_or_default()).map(card).collect();
        Self { rooms, cards: cards.into(), home: OnceLock::new() }
    }

    /// The namespace of containers, if it isn't the agent's. Once asked, it doesn't change.
    pub(super) fn namespace(&self) -> Option<PathBuf> {
        (*self.home.get_or_init(|| Home::Own) == Home::Apart).then(|| apart::NAMESPACE.into())
    }

    /// The namespace of a container whose first card will only be described later; none if there are no cards.
    pub(super) fn promise(&self) -> Option<PathBuf> {
        if self.rooms.is_some() {
            self.home.get_or_init(|| Home::Apart);
        }
        self.namespace()
    }

    /// Puts the first card in reserve if it hasn't been described.
    pub(super) async fn settle(&self) -> Result<(), NetworkError> {
        let mut cards = self.cards.lock().await;
        let (Some(rooms), Some(card)) = (&self.rooms, cards.first_mut()) else { return Ok(()) };
        if card.given.is_some() || card.home.is_none() {
            return Ok(());
        }
        rooms.put_in_reserve(card, 0)
    }

    /// Makes a card the interface that is described. The link is waited for before there are routes, since what is
    /// sent until then is lost.
    pub(super) async fn configure(&self, wanted: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
        let mut cards = self.cards.lock().await;
        let (rooms, card) = self.find(&mut cards, wanted.card)?;
        let home = *self.home.get_or_init(|| Home::Apart);
        let room = rooms.of(Some(home));
        if card.home != Some(home) {
            let moved = rooms.of(card.home).hand_over(card, room, &wanted.name).and_then(|()| room.raise(card.index));
            card.home = Some(home);
            moved.map_err(kernel("move", &wanted.name))?;
        }
        let before = card.given.take().unwrap_or_else(|| ConfigureNetworkRequest { ipv6: true, ..Default::default() });
        room.netlink.ask(messages::dress(card.index, wanted)?).map_err(kernel("set up", &wanted.name))?;
        if wanted.ipv6 != before.ipv6 {
            switch_ipv6(room, wanted).map_err(kernel("switch IPv6 of", &wanted.name))?;
        }
        take_away(room, card.index, &before, wanted)?;
        await_link(&room.netlink, card.index, &wanted.name).await?;
        give(room, card.index, wanted)?;
        card.given = Some(wanted.clone());
        Ok(())
    }

    /// Puts a card back into reserve.
    pub(super) async fn remove(&self, number: u32) -> Result<(), NetworkError> {
        let mut cards = self.cards.lock().await;
        let (rooms, card) = self.find(&mut cards, number)?;
        if card.given.take().is_none() {
            return Ok(());
        }
        rooms.put_in_reserve(card, number)
    }

    fn find<'a>(&'a self, cards: &'a mut [Card], number: u32) -> Result<(&'a Rooms, &'a mut Card), NetworkError> {
        let card = usize::try_from(number).ok().and_then(|number| cards.get_mut(number));
        self.rooms.as_ref().zip(card).ok_or(NetworkError::NoCard { number })
    }
}

impl Rooms {
    fn of(&self, home: Option<Home>) -> &Room {
        match home {
            Some(Home::Own) => &self.own,
            Some(Home::Apart) => &self.apart,
            None => &self.reserve,
        }
    }

    fn put_in_reserve(&self, card: &mut Card, number: u32) -> Result<(), NetworkError> {
        let name = apart::reserved(number);
        let moved = self.of(card.home).hand_over(card, &self.reserve, &name);
        card.home = None;
        moved.map_err(kernel("move", name))
    }
}

impl Room {
    /// Moves a card to another namespace, where its interface is called that.
    fn hand_over(&self, card: &mut Card, to: &Self, name: &str) -> io::Result<()> {
        self.netlink.ask(messages::hand_over(card.index, &to.handle, name))?;
        card.index = to.netlink.index_of(name)?;
        Ok(())
    }
}

/// Takes from an interface what it was given and isn't to have any more.
fn take_away(
    room: &Room,
    index: u32,
    before: &ConfigureNetworkRequest,
    wanted: &ConfigureNetworkRequest,
) -> Result<(), NetworkError> {
    let mut messages = Vec::new();
    for route in before.routes.iter().filter(|route| !wanted.routes.contains(route)) {
        messages.push(RouteNetlinkMessage::DelRoute(messages::route(index, route)?));
    }
    for address in before.addresses.iter().filter(|address| !wanted.addresses.contains(address)) {
        messages.push(RouteNetlinkMessage::DelAddress(messages::address(index, address)?));
    }
    for message in messages {
        // It may have gone with something else, or a container has removed it.
        let _gone = room.netlink.ask_to_remove(message);
    }
    Ok(())
}

/// Gives an interface its addresses and routes, those that it has once more: some go with others.
fn give(room: &Room, index: u32, wanted: &ConfigureNetworkRequest) -> Result<(), NetworkError> {
    for address in &wanted.addresses {
        let message = RouteNetlinkMessage::NewAddress(messages::address(index, address)?);
        room.netlink.ask(message).map_err(kernel("add address", format!("{address:?}")))?;
    }
    for route in &wanted.routes {
        let message = RouteNetlinkMessage::NewRoute(messages::route(index, route)?);
        // Several interfaces may have a default route: the first one's is taken.
        room.netlink.ask_to_append(message).map_err(kernel("add route", format!("{route:?}")))?;
    }
    Ok(())
}

fn switch_ipv6(room: &Room, wanted: &ConfigureNetworkRequest) -> io::Result<()> {
    let setting = Path::new("/proc/sys/net/ipv6/conf").join(&wanted.name).join("disable_ipv6");
    let value = if wanted.ipv6 { "0" } else { "1" };
    room.inside(|| if setting.exists() { std::fs::write(&setting, value) } else { Ok(()) })
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
