//! vCPU threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use devices::DeviceSet;
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::signal::Killable;

use crate::arch::Ports;
use crate::kvm::{Kickable, install_kick_handler, kick_signal};
use crate::seccomp::{self, Role};

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEnd {
    /// It switched the machine off.
    PoweredOff,
    /// It reset the machine.
    Reset,
    /// It can't be run any further; the text says why.
    Crashed(String),
    /// The VMM failed it.
    Fault(String),
}

/// What vCPU threads share with the thread that commands them.
#[derive(Debug)]
struct Shared {
    devices: Arc<DeviceSet>,
    ports: Arc<Ports>,
    stop: AtomicBool,
    end: Mutex<Option<GuestEnd>>,
    ended: OwnedFd,
}

impl Shared {
    fn end(&self) -> MutexGuard<'_, Option<GuestEnd>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first reason and wakes the commanding thread.
    fn report(&self, end: GuestEnd) {
        self.end().get_or_insert(end);
        if let Err(error) = rustix::io::write(&self.ended, &1u64.to_ne_bytes()) {
            eprintln!("the end of the guest can't be reported: {error}");
        }
    }
}

/// The threads of a running VM's vCPUs.
#[derive(Debug)]
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<VcpuFd>>,
}

impl Vcpus {
    /// Lets the vCPUs run, each in a thread of its own.
    pub fn start(vcpus: Vec<VcpuFd>, devices: Arc<DeviceSet>, ports: Arc<Ports>) -> io::Result<Self> {
        install_kick_handler()?;
        let ended = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared { devices, ports, stop: AtomicBool::new(false), end: Mutex::new(None), ended });
        let mut threads = Vec::with_capacity(vcpus.len());
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("vcpu{index}"));
            threads.push(thread.spawn(move || run(vcpu, &shared))?);
        }
        Ok(Self { shared, threads })
    }

    /// Readable when the guest has ended.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }

    /// How the guest ended, if it did.
    pub fn end(&self) -> Option<GuestEnd> {
        self.shared.end().clone()
    }

    /// Stops the vCPUs, with every port and memory access completed, and hands them back in order. The guest may have
    /// ended until then, and is no guest to go on with.
    pub fn stop(self) -> io::Result<Result<Vec<VcpuFd>, GuestEnd>> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in &self.threads {
            thread.kill(kick_signal()).map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        }
        let join =
            |thread: JoinHandle<VcpuFd>| thread.join().map_err(|_panic| io::Error::other("a vCPU thread panicked"));
        let vcpus = self.threads.into_iter().map(join).collect::<io::Result<_>>()?;
        let end = self.shared.end().take();
        Ok(end.map_or(Ok(vcpus), Err))
    }
}

/// Runs a vCPU until it is told to stop or the guest ends.
fn run(mut vcpu: VcpuFd, shared: &Shared) -> VcpuFd {
    seccomp::confine_or_end(Role::Vcpu);
    if let Some(end) = run_until_stopped(&mut vcpu, shared) {
        shared.report(end);
    }
    vcpu
}

fn run_until_stopped(vcpu: &mut VcpuFd, shared: &Shared) -> Option<GuestEnd> {
    let mut vcpu = Kickable::new(vcpu);
    loop {
        let stop = shared.stop.load(Ordering::SeqCst);
        if stop {
            // One more entry, which completes the access that the last exit was about and returns at once.
            vcpu.kick();
        }
        match vcpu.vcpu().run() {
            Ok(exit) => {
                if let Some(end) = handle(exit, shared) {
                    return Some(end);
                }
            }
            Err(error) if error.errno() == libc::EINTR && stop => return None,
            Err(error) if error.errno() == libc::EINTR => vcpu.forget_kick(),
            Err(error) if error.errno() == libc::EAGAIN => {}
            Err(error) => return Some(GuestEnd::Crashed(format!("KVM_RUN failed: {error}"))),
        }
    }
}

/// Does what the guest asked for. Whatever a guest does here, the process goes on or ends in an orderly way.
fn handle(exit: VcpuExit<'_>, shared: &Shared) -> Option<GuestEnd> {
    match exit {
        VcpuExit::IoOut(port, data) => shared.ports.write(port, data),
        VcpuExit::IoIn(port, data) => {
            shared.ports.read(port, data);
            None
        }
        // The registers are memory to it: there is nothing where it reads.
        VcpuExit::MmioRead(_, data) => {
            data.fill(0);
            None
        }
        VcpuExit::MmioWrite(address, data) => {
            shared.devices.mmio_write(address, data);
            None
        }
        VcpuExit::Intr | VcpuExit::IrqWindowOpen => None,
        // The interrupt controller is in the kernel, so this is a halt that nothing can end.
        VcpuExit::Hlt => Some(GuestEnd::PoweredOff),
        VcpuExit::Shutdown => Some(GuestEnd::Crashed("triple fault".into())),
        VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN, _) => Some(GuestEnd::PoweredOff),
        VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _) => Some(GuestEnd::Reset),
        VcpuExit::SystemEvent(kind, _) => Some(GuestEnd::Crashed(format!("system event {kind}"))),
        VcpuExit::FailEntry(reason, cpu) => {
            Some(GuestEnd::Crashed(format!("hardware refused to enter the guest on processor {cpu}: {reason:#x}")))
        }
        VcpuExit::InternalError => Some(GuestEnd::Crashed("KVM could not emulate an instruction".into())),
        other => Some(GuestEnd::Crashed(format!("unexpected exit: {other:?}"))),
    }
}
