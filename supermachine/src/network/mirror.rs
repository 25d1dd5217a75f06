//! The guest's interfaces, kept as those of its network namespace on the host.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent_proto::ConfigureNetworkRequest;
use rtnetlink::Handle;
use tracing::{info, warn};
use vmm_api::CARDS;

use super::Guest;
use super::error::{NetworkError, at};
use super::interface::{self, Interface, Links};
use super::{redirect, tap};

/// An interface and what the guest was told of it.
struct Mirrored {
    interface: Interface,
    told: ConfigureNetworkRequest,
    /// So that the VM's end isn't what takes the device away, for which the kernel waits until nothing uses it any more.
    _tap: OwnedFd,
}

/// A namespace's interfaces, each with the card that it has in the guest.
pub(super) struct Mirror {
    handle: Handle,
    guest: Arc<dyn Guest>,
    cards: [Option<Mirrored>; CARDS],
    /// Indices of those that the guest couldn't be given, which was said.
    refused: HashSet<u32>,
    host_asks: bool,
}

impl Mirror {
    /// Gives the guest what is there: all of it, or none. `host_asks` says whether a name server of the host asks others
    /// through the interfaces too.
    pub(super) async fn begin(handle: Handle, guest: Arc<dyn Guest>, host_asks: bool) -> Result<Self, NetworkError> {
        if host_asks {
            redirect::set_asking_ports().map_err(NetworkError::AskingPorts)?;
        }
        let Links { mut wired, has_tap, .. } = interface::list(&handle).await?;
        if wired.len() > CARDS {
            let names = wired.into_iter().map(|interface| interface.name).collect();
            return Err(NetworkError::TooMany { names });
        }
        if has_tap && let Some(first) = wired.pop() {
            return Err(NetworkError::Taken { interface: first.name });
        }
        let mut mirror = Self { handle, guest, cards: Default::default(), refused: HashSet::new(), host_asks };
        for interface in wired {
            mirror.add(interface).await?;
        }
        Ok(mirror)
    }

    /// Whether the guest has an interface.
    pub(super) fn is_empty(&self) -> bool {
        self.cards.iter().all(Option::is_none)
    }

    /// Names of the interfaces.
    pub(super) fn names(&self) -> Vec<&str> {
        self.cards.iter().flatten().map(|mirrored| mirrored.interface.name.as_str()).collect()
    }

    /// Gives the guest what is there now. What can't be done is logged.
    pub(super) async fn update(&mut self) {
        let Links { wired, present, .. } = match interface::list(&self.handle).await {
            Ok(links) => links,
            Err(error) => return warn!("the guest's interfaces stay as they are: {}", crate::error::chain(&error)),
        };
        self.refused.retain(|index| present.contains(index));
        for number in 0..CARDS {
            if let Some(gone) = self.cards[number].take_if(|card| !present.contains(&card.interface.index)) {
                self.remove(number, &gone.interface.name).await;
            }
        }
        for interface in wired {
            let (index, name) = (interface.index, interface.name.clone());
            let number =
                self.cards.iter().position(|card| card.as_ref().is_some_and(|card| card.interface.index == index));
            let result = match number {
                Some(number) => self.refresh(number, interface).await,
                None if self.refused.contains(&index) => continue,
                None => {
                    self.add(interface).await.inspect(|()| info!(interface = name, "the guest has a further interface"))
                }
            };
            if let Err(error) = result {
                warn!("interface {name} isn't in the guest as it is on the host: {}", crate::error::chain(&error));
                self.refused.insert(index);
            }
        }
    }

    /// Gives the guest a further interface.
    async fn add(&mut self, interface: Interface) -> Result<(), NetworkError> {
        let Some(number) = self.cards.iter().position(Option::is_none) else {
            let names = self.names().into_iter().chain([interface.name.as_str()]).map(str::to_owned).collect();
            return Err(NetworkError::TooMany { names });
        };
        let told = interface::describe(&self.handle, &interface, number).await?;
        let tap = self.wire(number, &interface).await?;
        let kept = tap.try_clone().map_err(NetworkError::Thread)?;
        self.guest.attach(number, tap).await?;
        if let Err(error) = self.guest.configure(&told).await {
            self.remove(number, &interface.name).await;
            return Err(error);
        }
        self.cards[number] = Some(Mirrored { interface, told, _tap: kept });
        Ok(())
    }

    /// Tells the guest what has changed of an interface.
    async fn refresh(&mut self, number: usize, interface: Interface) -> Result<(), NetworkError> {
        let told = interface::describe(&self.handle, &interface, number).await?;
        let Some(mirrored) = &mut self.cards[number] else { return Ok(()) };
        if told == mirrored.told {
            return Ok(());
        }
        if interface.mtu != mirrored.interface.mtu {
            let raised = tap::raise(&self.handle, number, interface.mtu).await;
            raised.map_err(at("change the tap of", &interface.name))?;
        }
        self.guest.configure(&told).await?;
        (mirrored.interface, mirrored.told) = (interface, told);
        Ok(())
    }

    async fn remove(&self, number: usize, name: &str) {
        match self.guest.remove(number).await {
            Ok(()) => info!(interface = name, "the guest no longer has an interface"),
            Err(error) => warn!("interface {name} stays in the guest: {}", crate::error::chain(&error)),
        }
    }

    /// Joins an interface and a new tap.
    async fn wire(&self, number: usize, interface: &Interface) -> Result<OwnedFd, NetworkError> {
        let tap = tap::create(number).map_err(|source| match source.kind() {
            io::ErrorKind::ResourceBusy => NetworkError::Taken { interface: interface.name.clone() },
            _ => NetworkError::Tap { interface: interface.name.clone(), source },
        })?;
        let raised = tap::raise(&self.handle, number, interface.mtu).await;
        let link = raised.map_err(at("bring up the tap of", &interface.name))?;
        redirect::join(&self.handle, interface, link, self.host_asks).await?;
        Ok(tap)
    }
}
