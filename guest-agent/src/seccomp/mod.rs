//! `linux.seccomp` of a spec, compiled to a classic BPF program.
//!
//! Libraries at hand allow two actions per filter; the profiles that container engines send use more (an error number
//! of its own for `clone3`, for one), and list 32-bit system calls besides.

mod assemble;
mod rules;
#[cfg(test)]
mod tests;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompFilterFlag};

use crate::container::SetupError;
use crate::container::Step as _;
use crate::sys::{FilterInstruction, install_filter};

/// A compiled filter.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Vec<FilterInstruction>,
    flags: u32,
}

impl Filter {
    /// Compiles a profile.
    pub(crate) fn compile(profile: &LinuxSeccomp) -> Result<Self, SetupError> {
        if profile.listener_path().is_some() {
            return Err(SetupError::spec("linux.seccomp.listenerPath", "isn't supported; leave it out"));
        }
        let tables = rules::tables(profile)?;
        let program = assemble::program(&tables);
        if program.len() > MAX_INSTRUCTIONS {
            return Err(SetupError::spec("linux.seccomp", "makes a filter longer than the kernel's limit"));
        }
        let flags = profile.flags().iter().flatten().fold(0, |flags, flag| flags | flag_bit(*flag));
        Ok(Self { program, flags })
    }

    /// Puts this process under the filter.
    pub(crate) fn install(&self) -> Result<(), SetupError> {
        install_filter(&self.program, self.flags).step("install", "seccomp filter")
    }
}

/// `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

fn flag_bit(flag: LinuxSeccompFilterFlag) -> u32 {
    let bit = match flag {
        // One thread: nothing to synchronise, and the flag changes how errors are reported.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        // Concerns listeners, which are refused.
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    bit as u32
}
