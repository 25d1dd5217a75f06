//! A virtual machine monitor that restores snapshots ("bakes") of booted guests.
//!
//! One process runs one VM. It is commanded over one socket ([`control`]) and opens no path itself. A start passes
//! through the phases of [`machine`]: `Opened`, `Mapped`, `Wired`, `Running`; [`boot`] and [`restore`] differ in how
//! they get to `Wired` and share the rest.
#![deny(unsafe_code)]

pub mod arch;
pub mod boot;
pub mod capture;
pub mod control;
pub mod facts;
pub mod jail;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod outcome;
pub mod restore;
pub mod seccomp;
pub mod state;
pub mod timeline;
pub mod vcpu;
