//! When a process gets a processor, and when a disk.

use std::io;

/// `IOPRIO_WHO_PROCESS` and `IOPRIO_CLASS_SHIFT` of `linux/ioprio.h`.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// Scheduling as sched_setattr(2) takes it; numbers of policies and flags are the kernel's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scheduling {
    pub(crate) policy: u32,
    pub(crate) flags: u64,
    pub(crate) nice: i32,
    pub(crate) priority: u32,
    pub(crate) runtime: u64,
    pub(crate) deadline: u64,
    pub(crate) period: u64,
}

/// Schedules this process so.
pub(crate) fn set_scheduling(scheduling: &Scheduling) -> io::Result<()> {
    // SAFETY: `sched_attr` is plain data for which all zeroes is a valid value.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_policy = scheduling.policy;
    attributes.sched_flags = scheduling.flags;
    attributes.sched_nice = scheduling.nice;
    attributes.sched_priority = scheduling.priority;
    attributes.sched_runtime = scheduling.runtime;
    attributes.sched_deadline = scheduling.deadline;
    attributes.sched_period = scheduling.period;
    // SAFETY: the kernel reads as many bytes of `attributes` as its first field says, which is its size; it outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this process a class (`IOPRIO_CLASS_*`) and a priority within it for what it reads and writes.
pub(crate) fn set_io_priority(class: u32, priority: u32) -> io::Result<()> {
    let value = class << IOPRIO_CLASS_SHIFT | priority;
    // SAFETY: ioprio_set takes three plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
