//! Virtual machines that are restored instead of booted: the library on which the shim, the baker and the command
//! line stand. It knows no containerd type.
//!
//! [`Machine`] says what a VM is made of here, [`Vm::start`] restores one (or boots it when there is no usable bake)
//! and [`Baker`] makes bakes.
// Not `forbid`: the generated client and server allow it for themselves, and use none.
#![deny(unsafe_code)]

mod baker;
mod blocking;
mod console;
pub mod daemon;
mod disks;
mod error;
mod facts;
mod image;
mod kvm;
mod launch;
mod machine;
mod namespace;
mod network;
mod order;
mod relay;
mod run_directory;
pub mod shim;
mod sockets;
mod start_record;
mod tally;
mod trace;
mod upper;
mod vm;
mod vmm;
mod volumes;
mod wanted;
mod warm;
mod writable;

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::panic,
    clippy::unwrap_used,
    clippy::allow_attributes_without_reason,
    clippy::needless_pass_by_value,
    clippy::map_err_ignore,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use agent_proto as agent;
pub use bake::{
    Claim, Digest, Entry, Extent, Hasher, Key, Level, MachineFacts, Manifest, Part, Reason, Store, StoreError, Subject,
};
pub use baker::{BakeError, BakeStep, Baked, Baker};
pub use disks::{DeviceError, DeviceNumber, DiskError, HostDevice, HostDevices, RootDisks, UpperDirectories};
pub use error::{ErrorKind, chain};
pub use image::{Image, Lookup};
pub use kvm::{KvmError, check_kvm};
pub use launch::{Launch, LaunchError, Network};
pub use machine::{Machine, MachineError};
pub use network::NetworkError;
pub use order::{BakeOrder, OrderError};
pub use sockets::{HostSockets, ServedSockets};
pub use start_record::{RecordError, Recorder, StartRecord};
pub use tally::Tally;
pub use trace::{Owner, Phase, Trace};
pub use upper::{UpperError, clone_upper};
pub use vm::{AttachError, DetachError, Mode, StartError, Started, Stream, StreamError, Timeline, Vm, realtime_ns};
pub use vmm::{Exit, ExitReason, Exited};
pub use vmm_api::Shape;
pub use volumes::{Access, Volume, VolumeError, Volumes, Watchable, Watching};
pub use wanted::read_wanted;
pub use warm::{Readiness, WarmContainer, WarmFile, Warmth};
pub use writable::{
    AskedAt, ExportError, Exported, Exporter, Import, ImportError, Truth, VmNote, WritableError, WritableLayer,
    lock_disk,
};
