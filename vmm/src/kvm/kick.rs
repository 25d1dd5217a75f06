//! Getting a vCPU thread out of the guest.
//!
//! A signal ends `KVM_RUN`. One that arrives between the thread's last look at its orders and `KVM_RUN` would be lost,
//! so its handler also sets `immediate_exit` in the vCPU's shared page, which makes the next `KVM_RUN` return at once
//! (after completing the port or memory access that the previous exit was about).

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::null_mut;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(null_mut()) };
}

/// The signal that kicks a vCPU thread.
pub fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// Makes writing to a socket or pipe without a reader an error instead of the process's end.
pub fn ignore_broken_pipes() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Makes [`kick_signal`] kick instead of kill, in the whole process.
pub fn install_kick_handler() -> std::io::Result<()> {
    register_signal_handler(kick_signal(), on_kick).map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: only `Kickable` stores a pointer here, in this very thread, and takes it away before the page goes.
        unsafe { flag.write_volatile(1) };
    }
}

/// While it lives, [`kick_signal`] sent to the thread that made it gets that thread out of `KVM_RUN`.
#[derive(Debug)]
pub struct Kickable<'a> {
    vcpu: &'a mut VcpuFd,
    /// The thread-local registration must be undone by the same thread.
    not_send: PhantomData<*mut u8>,
}

impl<'a> Kickable<'a> {
    /// Registers the vCPU for the calling thread.
    pub fn new(vcpu: &'a mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Self { vcpu, not_send: PhantomData }
    }

    /// The vCPU.
    pub fn vcpu(&mut self) -> &mut VcpuFd {
        self.vcpu
    }

    /// Makes the next `KVM_RUN` return at once.
    pub fn kick(&mut self) {
        self.vcpu.set_kvm_immediate_exit(1);
    }

    /// Forgets a kick that came for another reason than an order.
    pub fn forget_kick(&mut self) {
        self.vcpu.set_kvm_immediate_exit(0);
    }
}

impl Drop for Kickable<'_> {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(null_mut());
        self.vcpu.set_kvm_immediate_exit(0);
    }
}
