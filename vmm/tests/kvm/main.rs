//! Tests of the VMM process against a real `/dev/kvm`.
//!
//! They need a guest kernel and a static busybox (see [`support`]), so they are ignored unless asked for:
//! `kvm --ignored`, as root, on a host whose KVM can run a Linux guest.
#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking and reports")]

mod boot;
mod damage;
mod ending;
mod initrd;
mod jail;
mod round_trip;
mod support;
