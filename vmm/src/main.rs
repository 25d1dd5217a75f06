//! The VMM process: standard input is its control socket.
//!
//! It starts at C's `main`, without what Rust's standard library does before its own: finding the main thread's stack
//! (by reading `/proc/self/maps`) and installing a handler that explains stack overflows cost more than decoding a
//! bake's state.
#![no_main]
#![expect(unsafe_code, reason = "the name `main` must be exported")]

use std::ffi::{c_char, c_int};
use std::os::fd::AsFd;

use supermachine_vmm::outcome::{Outcome, end_on_panic};
use supermachine_vmm::timeline::Stopwatch;
use supermachine_vmm::{control, kvm, memory};
use vmm_api::ControlSocket;

// SAFETY: no other symbol of this name exists in a program without Rust's own `main`.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    let stopwatch = Stopwatch::new();
    kvm::ignore_broken_pipes();
    memory::share_one_heap();
    end_on_panic();
    let outcome = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => control::serve(&ControlSocket::from(socket), stopwatch),
        Err(error) => {
            Outcome::Internal(format!("standard input, which should be the control socket, is closed: {error}"))
        }
    };
    eprintln!("supermachine-vmm: {outcome}");
    outcome.code()
}
