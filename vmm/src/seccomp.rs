//! Which system calls each thread may make. Any other ends the process (`SIGSYS`), and whoever started it is told.
//!
//! The lists are in `vmm/seccomp`, as programs for the kernel since `build.rs` ran. A list that lacks a call shows as
//! a line of the host's kernel log (`type=1326`) with the call's number and the name of the thread.

use seccompiler::{BpfProgramRef, apply_filter};

use crate::jail;
use crate::outcome::{Outcome, chain};

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// Whose list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The thread that answers requests, once the guest runs.
    Control,
    /// A thread that serves devices.
    Worker,
    /// The thread that serves files.
    Files,
    /// A vCPU's thread.
    Vcpu,
}

impl Role {
    fn program(self) -> BpfProgramRef<'static> {
        match self {
            Self::Control => CONTROL,
            Self::Worker => WORKER,
            Self::Files => FILES,
            Self::Vcpu => VCPU,
        }
    }
}

/// What a list has where it means this process's id.
const OWN_PROCESS: u32 = 2_055_755_333;

/// Restricts the calling thread to the role's list for good.
pub fn restrict(role: Role) -> Result<(), seccompiler::Error> {
    let mut program = role.program().to_vec();
    for instruction in &mut program {
        if instruction.k == OWN_PROCESS {
            instruction.k = std::process::id();
        }
    }
    apply_filter(&program)
}

/// Takes a thread's rights and system calls but for those of its role. It must not go on without: the process ends if
/// that fails.
pub fn confine_or_end(role: Role) {
    let rights = if role == Role::Files { jail::keep_file_rights() } else { jail::keep_no_rights() };
    if let Err(error) = rights {
        Outcome::Internal(format!("a thread can't be confined: {}", chain(&error))).end_process();
    }
    if let Err(error) = restrict(role) {
        Outcome::Internal(format!("a thread's system calls can't be restricted: {error}")).end_process();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    const CHILD: &str = "SECCOMP_TEST_CHILD";
    const ROLES: [Role; 4] = [Role::Control, Role::Worker, Role::Vcpu, Role::Files];

    /// In a process of its own, which is this test again: takes a role and does something in it.
    fn child(role: usize, act: &str) -> ExitStatus {
        let mut test = Command::new(std::env::current_exe().unwrap());
        test.args(["--exact", "seccomp::tests::any_call_that_a_role_has_not_ends_the_process", "--nocapture"]);
        test.env(CHILD, format!("{role} {act}")).status().unwrap()
    }

    fn play(order: &str) -> ! {
        let (role, act) = order.split_once(' ').unwrap();
        restrict(ROLES[role.parse::<usize>().unwrap()]).unwrap();
        match act {
            "socket" => drop(UnixStream::pair()),
            "open" => drop(std::fs::File::open("/")),
            "rights" => {
                let _known = rustix::thread::capability_is_in_bounding_set(rustix::thread::CapabilitySet::FSETID);
                let _known = rustix::thread::capability_is_in_ambient_set(rustix::thread::CapabilitySet::FSETID);
            }
            "exec" => drop(Command::new("/bin/true").spawn()),
            "signal" => drop(rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CONT)),
            "work" => {
                let map: std::collections::HashMap<_, _> = (0..100_000).map(|n| (n, vec![n; 10])).collect();
                eprintln!("{role} holds {} things", map.len());
            }
            other => panic!("{other}?"),
        }
        Outcome::Stopped.end_process()
    }

    #[test]
    fn only_threads_of_this_process_can_be_signalled() {
        let stand_ins = |role: Role| role.program().iter().filter(|instruction| instruction.k == OWN_PROCESS).count();
        assert_eq!(ROLES.map(stand_ins), [1, 0, 0, 0]);
    }

    #[test]
    fn any_call_that_a_role_has_not_ends_the_process() {
        if let Ok(order) = std::env::var(CHILD) {
            play(&order);
        }
        for (index, role) in ROLES.into_iter().enumerate() {
            assert_eq!(child(index, "work").code(), Some(0), "{role:?} can't even work");
            for act in ["socket", "open", "signal", "exec", "rights"] {
                // The server of files opens them, and looks at its rights before it drops one for a moment.
                if role == Role::Files && ["open", "rights"].contains(&act) {
                    assert_eq!(child(index, act).code(), Some(0), "{role:?}: {act}");
                    continue;
                }
                assert_eq!(child(index, act).signal(), Some(libc::SIGSYS), "{role:?}: {act}");
            }
        }
    }
}
