//! What containerd hands over, turned into what a VM needs: the specification as the guest is to read it, the layers
//! of the root file system, hooks for the host, files to carry along.

mod files;
mod images;
mod layers;
mod load;
mod root;
mod size;
mod transform;
mod warm;

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub(crate) use layers::{EnsureLayers, RootLayers, Writable, locate as locate_layers};
pub(crate) use load::Bundle;
pub(crate) use root::Root;
pub(crate) use size::Need;
pub(crate) use transform::{GuestSpec, HostHooks, Neighbour, is_pid_namespace_own, resources};
pub(crate) use warm::{Adoption, warmth};

/// Why a bundle can't be run.
#[derive(Debug, Error)]
pub(crate) enum BundleError {
    /// A file of the bundle can't be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// `config.json` is no specification.
    #[error("parse {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// What a container that runs already is to be told can't be.
    #[error("prepare what the restored container is told: {problem}")]
    Adoption {
        /// What is wrong.
        problem: String,
    },
    /// The specification could not be written for the guest.
    #[error("encode the specification for the guest")]
    Encode(#[source] serde_json::Error),
    /// A required part of the specification is missing.
    #[error("{path} has no {field}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// Neither the request nor the bundle has a root file system.
    #[error(
        "bundle has no root file system: the request carries no rootfs mounts and there is nothing at {path}: run an \
         image with `--snapshotter supermachine`"
    )]
    NoRootfs {
        /// Where it should be.
        path: PathBuf,
    },
    /// The root file system is to be made of images that a VM can't make it of.
    #[error("root file system: mount {index} ({kind}): {problem}")]
    Images {
        /// Place in the list, from 0.
        index: usize,
        /// The mount's type.
        kind: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The daemon could not provide a layer.
    #[error("get the layer of {path}")]
    Layer {
        /// The layer's directory.
        path: PathBuf,
        /// What the daemon said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Mounts that are to be seen on the host.
    #[error(
        "mount {destination} with option {option}: what is mounted in a virtual machine can't be seen on the host; leave \
         the option out, or use rslave, with which the container sees what the host mounts"
    )]
    Propagation {
        /// Where the container wants it.
        destination: PathBuf,
        /// The option.
        option: &'static str,
    },
    /// A mount without a source.
    #[error("bind mount {destination} names no source")]
    NoSource {
        /// Where the container wants it.
        destination: PathBuf,
    },
    /// A kind of hook that would have to run inside the container.
    #[error("{kind} hooks run inside the container and are not supported yet")]
    GuestHook {
        /// The kind, as in the specification.
        kind: &'static str,
    },
    /// A process id namespace that may be any of several.
    #[error(
        "the pid namespace {path} may be that of any container in the virtual machine, which all have the same pid on the \
         host: share process ids in the whole pod, or in none of it"
    )]
    AmbiguousNamespace {
        /// The namespace.
        path: PathBuf,
    },
    /// A namespace of a container that has ended.
    #[error("the namespace {path} is that of the group's first container, which has ended: make the group anew")]
    NeighbourEnded {
        /// The namespace.
        path: PathBuf,
    },
    /// A network that isn't the VM's.
    #[error(
        "the network namespace {path} isn't that of the container's group, whose virtual machine it shares: name the \
         group's, or one to be made"
    )]
    OtherNetwork {
        /// The namespace.
        path: PathBuf,
    },
    /// No network namespace: the network would be the host's.
    #[error(
        "the host's network can't be a VM's: give the container a network of its own, and publish its ports (nerdctl: \
         leave out --network host, and name ports with -p; Kubernetes: hostNetwork: false)"
    )]
    HostNetwork,
    /// A namespace that another process on the host holds.
    #[error(
        "the {kind} namespace {path} is another container's or the host's, and can't be entered from a VM: leave it out \
         (nerdctl: --{kind}), so that the container has its own"
    )]
    HostNamespace {
        /// The kind, as in the specification.
        kind: String,
        /// The namespace.
        path: PathBuf,
    },
}
