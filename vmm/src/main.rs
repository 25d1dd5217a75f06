//! The VMM process: standard input is its control socket.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::process::ExitCode;

use supermachine_vmm::control;
use supermachine_vmm::outcome::Outcome;
use supermachine_vmm::timeline::Stopwatch;
use vmm_api::ControlSocket;

fn main() -> ExitCode {
    let stopwatch = Stopwatch::new();
    let outcome = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => control::serve(&ControlSocket::from(socket), stopwatch),
        Err(error) => {
            Outcome::Internal(format!("standard input, which should be the control socket, is closed: {error}"))
        }
    };
    eprintln!("supermachine-vmm: {outcome}");
    outcome.code()
}
