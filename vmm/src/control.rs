//! The conversation on the control socket.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use vmm_api::{ControlError, ControlSocket, Disks, Failure, FailureKind, Fd, Packet, Pages, Reply, Request};

use crate::capture;
use crate::machine::{self, Running, StartError};
use crate::memory;
use crate::outcome::{Outcome, chain};
use crate::seccomp::{self, Role};
use crate::timeline::Stopwatch;
use crate::{boot, facts, restore};

/// Serves requests until the process has a reason to end.
pub fn serve(control: &ControlSocket, stopwatch: Stopwatch) -> Outcome {
    match start(control, stopwatch).and_then(|machine| run(control, machine)) {
        Ok(never) => match never {},
        Err(outcome) => outcome,
    }
}

/// Said to requests that need a VM after it was captured.
const CAPTURED: &str = "the VM was captured and doesn't run any more";

/// No value: the loop ends with an [`Outcome`] only.
enum Never {}

/// Answers until a VM runs.
fn start(control: &ControlSocket, stopwatch: Stopwatch) -> Result<Running, Outcome> {
    loop {
        let (request, mut fds) = receive(control)?.split();
        let started = match request {
            Request::Boot(request) => boot::boot(&request, &mut fds, stopwatch),
            Request::Restore(request) => restore::restore(request, &mut fds, stopwatch),
            Request::Describe { kvm } => {
                reply(control, &describe(kvm, &mut fds))?;
                continue;
            }
            Request::Shutdown => return Err(stop(control)),
            Request::Connect { .. }
            | Request::AttachDisks { .. }
            | Request::AttachDevice { .. }
            | Request::DetachUpper { .. }
            | Request::AttachNetwork { .. }
            | Request::DetachNetwork { .. }
            | Request::CopyAhead { .. }
            | Request::ListWritten { .. }
            | Request::Capture { .. } => {
                reply(control, &invalid("no VM was started yet"))?;
                continue;
            }
        };
        return match started.and_then(crate::machine::Wired::run) {
            Ok(machine) => {
                reply(control, &Reply::Running(machine.timeline))?;
                // The caller has its answer: what is left to do costs the start no time.
                seccomp::confine_or_end(Role::Control);
                Ok(machine)
            }
            Err(error) => Err(start_failed(control, &error)),
        };
    }
}

fn start_failed(control: &ControlSocket, error: &StartError) -> Outcome {
    let failure = Failure { kind: error.kind(), message: chain(error) };
    match reply(control, &Reply::Failed(failure)) {
        Ok(()) => Outcome::StartFailed(chain(error)),
        Err(outcome) => outcome,
    }
}

/// Answers while the VM runs.
fn run(control: &ControlSocket, machine: Running) -> Result<Never, Outcome> {
    let mut machine = Some(machine);
    loop {
        if let Some(machine) = &machine {
            await_request(control, machine)?;
        }
        let (request, mut fds) = receive(control)?.split();
        let answer = match (request, &machine) {
            (Request::Shutdown, _) => return Err(stop(control)),
            (Request::Describe { kvm }, _) => describe(kvm, &mut fds),
            (Request::Boot(_) | Request::Restore(_), _) => invalid("a VM was started already"),
            (Request::Capture { state, memory, pages }, _) => match take_files(state, memory, &mut fds) {
                Ok(files) => capture(&mut machine, files, pages),
                Err(error) => failed(FailureKind::Invalid, &error),
            },
            (Request::Connect { port, stream }, Some(machine)) => connect(machine, port, stream, &mut fds),
            (Request::AttachDisks { disks, upper_start }, Some(machine)) => {
                attach(machine, &disks, upper_start, &mut fds)
            }
            (Request::AttachDevice { device, length, read_only, start }, Some(machine)) => match fds.take(device) {
                Ok(device) => attach_device(machine, start, device.into(), length, !read_only),
                Err(error) => failed(FailureKind::Invalid, &error),
            },
            (Request::DetachUpper { start }, Some(machine)) => match machine.devices.detach(start) {
                Ok(()) => Reply::Detached,
                Err(error) => failed(FailureKind::Invalid, &error),
            },
            (Request::AttachNetwork { card, tap }, Some(machine)) => attach_network(machine, card, tap, &mut fds),
            (Request::DetachNetwork { card }, Some(machine)) => match machine.devices.detach_network(card.into()) {
                Ok(()) => Reply::Detached,
                Err(error) => failed(FailureKind::Invalid, &error),
            },
            (Request::CopyAhead { pages }, Some(machine)) => {
                memory::copy_ahead(&machine.ram, &pages);
                Reply::Copied
            }
            (Request::ListWritten { most }, Some(machine)) => match machine.origin.written(&machine.ram, most) {
                Ok(runs) => Reply::Written { runs },
                Err(error) => failed(FailureKind::Io, &error),
            },
            (
                Request::Connect { .. }
                | Request::AttachDisks { .. }
                | Request::AttachDevice { .. }
                | Request::DetachUpper { .. }
                | Request::AttachNetwork { .. }
                | Request::DetachNetwork { .. }
                | Request::CopyAhead { .. }
                | Request::ListWritten { .. },
                None,
            ) => invalid(CAPTURED),
        };
        reply(control, &answer)?;
    }
}

/// Waits for a request, or for the guest's end.
fn await_request(control: &ControlSocket, machine: &Running) -> Result<(), Outcome> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(machine.vcpus.ended_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Outcome::Internal(format!("waiting for a request failed: {error}"))),
        }
        if let Some(end) = machine.vcpus.end() {
            // The last words may lack a newline, and nothing is dropped in order when a process exits.
            machine.ports.console().flush();
            return Err(Outcome::Guest(end));
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
    }
}

fn connect(machine: &Running, port: u32, stream: Fd, fds: &mut Packet<()>) -> Reply {
    let stream = match fds.take(stream) {
        Ok(stream) => stream,
        Err(error) => return failed(FailureKind::Invalid, &error),
    };
    match machine.devices.connect(port, stream) {
        Ok(()) => Reply::Connecting,
        Err(error) => failed(FailureKind::Io, &error),
    }
}

fn attach(machine: &Running, disks: &Disks, upper_start: u64, fds: &mut Packet<()>) -> Reply {
    let backings = match machine::backings(disks, fds) {
        Ok(backings) => backings,
        Err(error) => return failed(FailureKind::Invalid, &error),
    };
    match machine.devices.attach(backings, upper_start) {
        Ok(()) => Reply::Attached,
        Err(error) => failed(FailureKind::Invalid, &error),
    }
}

fn attach_device(machine: &Running, start: u64, device: File, length: u64, writable: bool) -> Reply {
    match machine.devices.attach_device(start, device, length, writable) {
        Ok(()) => Reply::Attached,
        Err(error) => failed(FailureKind::Invalid, &error),
    }
}

fn attach_network(machine: &Running, card: u8, tap: Fd, fds: &mut Packet<()>) -> Reply {
    let tap = match fds.take(tap) {
        Ok(tap) => File::from(tap),
        Err(error) => return failed(FailureKind::Invalid, &error),
    };
    match machine.attach_network(card.into(), tap) {
        Ok(()) => Reply::Attached,
        Err(error) => failed(FailureKind::Invalid, &error),
    }
}

fn take_files(state: Fd, memory: Fd, fds: &mut Packet<()>) -> Result<(File, File), ControlError> {
    Ok((fds.take(state)?.into(), fds.take(memory)?.into()))
}

/// Captures the VM and leaves none behind, unless it has to run on because connections are open.
fn capture(machine: &mut Option<Running>, (mut state, memory): (File, File), pages: Pages) -> Reply {
    let Some(running) = machine.take() else { return invalid(CAPTURED) };
    if let Err(error) = capture::await_disconnected(&running.devices) {
        *machine = Some(running);
        return failed(error.kind(), &error);
    }
    match capture::capture(running, &mut state, &memory, pages) {
        Ok(done) => Reply::Captured { extents: done.extents, state_bytes: done.state_bytes },
        Err(error) => failed(error.kind(), &error),
    }
}

fn describe(kvm: Fd, fds: &mut Packet<()>) -> Reply {
    match fds.take(kvm) {
        Ok(kvm) => match facts::describe(kvm) {
            Ok(facts) => Reply::Described(facts),
            Err(error) => failed(FailureKind::Kvm, &error),
        },
        Err(error) => failed(FailureKind::Invalid, &error),
    }
}

fn stop(control: &ControlSocket) -> Outcome {
    match reply(control, &Reply::Stopping) {
        Ok(()) => Outcome::Stopped,
        Err(outcome) => outcome,
    }
}

fn invalid(message: &str) -> Reply {
    Reply::Failed(Failure { kind: FailureKind::Invalid, message: message.into() })
}

fn failed(kind: FailureKind, error: &dyn std::error::Error) -> Reply {
    Reply::Failed(Failure { kind, message: chain(error) })
}

fn receive(control: &ControlSocket) -> Result<Packet<Request>, Outcome> {
    loop {
        match control.receive() {
            Ok(packet) => return Ok(packet),
            Err(ControlError::Closed) => return Err(Outcome::Stopped),
            Err(error @ (ControlError::Malformed { .. } | ControlError::TooLarge)) => {
                reply(control, &failed(FailureKind::Invalid, &error))?;
            }
            Err(error) => return Err(Outcome::Internal(chain(&error))),
        }
    }
}

fn reply(control: &ControlSocket, reply: &Reply) -> Result<(), Outcome> {
    match control.send(reply, &[]) {
        Ok(()) => Ok(()),
        Err(ControlError::Closed) => Err(Outcome::Stopped),
        Err(error) => Err(Outcome::Internal(chain(&error))),
    }
}
