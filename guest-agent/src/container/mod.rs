//! Setting up containers and the processes in them, on the guest's side of an OCI runtime spec.

mod capabilities;
mod copy_up;
mod devices;
mod error;
mod files;
mod host_devices;
mod init;
mod mounts;
mod namespaces;
mod options;
mod proc_mounts;
mod program;
mod root;
mod rootfs;
mod scheduling;
mod settings;
mod spec;
mod sysctl;
mod terminal;

pub(crate) use copy_up::give;
pub(crate) use devices::DEFAULT_DEVICES;
pub(crate) use error::{SetupError, Step};
pub(crate) use files::InjectedFile;
pub(crate) use host_devices::{DeviceNumber, HostDevice};
pub(crate) use init::{Endowment, Order, Progress, Residence, run_first, run_further};
pub(crate) use mounts::new_filesystem;
pub(crate) use namespaces::OwnNamespaces;
pub(crate) use rootfs::Surroundings;
pub(crate) use settings::{hide_from_tracing, limit};
pub(crate) use spec::{ContainerPlan, ProcessPlan};
pub(crate) use terminal::TerminalSize;
