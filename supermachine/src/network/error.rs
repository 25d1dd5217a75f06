//! Why a VM has no network.

use std::io;
use std::net::SocketAddr;

use crate::error::ErrorKind;
use crate::vm::StreamError;
use crate::vmm::VmmError;
use vmm_api::CARDS;

/// Nobody in the guest can be reached at an address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No stream.
    #[error("the virtual machine can't be reached")]
    Stream(#[source] StreamError),
    /// The VM has ended.
    #[error("the virtual machine is gone")]
    Gone,
    /// Nobody listens there.
    #[error("nobody in the guest listens at {address}")]
    Refused {
        /// What was dialled.
        address: SocketAddr,
    },
    /// The guest says nothing.
    #[error("the guest gave no answer within {seconds} s")]
    Silent {
        /// How long it had.
        seconds: u64,
    },
}

/// A VM can't be connected to its network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The namespace is gone, or may not be entered.
    #[error("the network namespace can't be entered")]
    Namespace(#[source] io::Error),
    /// The namespace is that of whoever starts the VM.
    #[error(
        "the network namespace is this host's own, whose traffic must not be taken away; give the VM one of its own"
    )]
    Own,
    /// A thread, its runtime or its socket.
    #[error("the network namespace can't be looked into")]
    Thread(#[source] io::Error),
    /// The kernel doesn't say what is in it.
    #[error("the network namespace's interfaces can't be listed")]
    List(#[source] io::Error),
    /// The guest has fewer cards.
    #[error(
        "the network namespace has {} interfaces ({}), and a VM has {CARDS} network cards: connect the container to \
         fewer networks",
        names.len(),
        names.join(", ")
    )]
    TooMany {
        /// What they are called.
        names: Vec<String>,
    },
    /// Another VM has the interface.
    #[error(
        "interface {interface} belongs to another VM: two can't share a network namespace (nerdctl: --network \
         container:NAME); connect both containers to one network, where each finds the other by its name"
    )]
    Taken {
        /// What it is called.
        interface: String,
    },
    /// What the host asks would be taken for what the guest asks.
    #[error("can't set from which ports the network namespace's name server asks")]
    AskingPorts(#[source] io::Error),
    /// No tap device.
    #[error("no tap device can be made for interface {interface}; is the kernel's module `tun` loaded?")]
    Tap {
        /// The interface that is to be connected.
        interface: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("can't {action} interface {interface}")]
    Netlink {
        /// What was to be done.
        action: &'static str,
        /// What the interface is called.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The VM has ended meanwhile.
    #[error("the virtual machine is gone")]
    Gone,
    /// The VMM didn't take the tap.
    #[error("connect the virtual machine's network card")]
    Vmm(#[source] VmmError),
    /// The guest keeps an interface.
    #[error("take an interface away from the guest")]
    Remove(#[source] Box<ttrpc::Error>),
    /// The guest didn't take the configuration.
    #[error("configure interface {interface} in the guest")]
    Agent {
        /// What it is called.
        interface: String,
        /// What the agent said.
        #[source]
        source: Box<ttrpc::Error>,
    },
}

impl NetworkError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Namespace(_) | Self::Own | Self::TooMany { .. } | Self::Taken { .. } | Self::Tap { .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Vmm(error) => error.kind(),
            Self::Gone => ErrorKind::Unavailable,
            Self::Thread(_)
            | Self::List(_)
            | Self::AskingPorts(_)
            | Self::Netlink { .. }
            | Self::Remove(_)
            | Self::Agent { .. } => ErrorKind::Internal,
        }
    }
}

/// Names what the kernel refused to do, and to which interface.
pub(super) fn at(action: &'static str, interface: &str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    move |error| NetworkError::Netlink { action, interface: interface.to_owned(), source: in_words(error) }
}

/// The kernel's errors are numbers; others are messages that make no sense.
pub(super) fn in_words(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        error => io::Error::other(error),
    }
}

/// Whether the kernel says that there is one already.
pub(super) fn exists(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.to_io().kind() == io::ErrorKind::AlreadyExists)
}
