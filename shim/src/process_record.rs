//! A note of a process that outlives whoever wrote it: pid and start time, so that a reused pid is never taken for it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// In the bundle: the daemon.
pub(crate) const SHIM: &str = "shim.pid";
/// In the bundle: the container's VMM.
pub(crate) const VMM: &str = "vmm.pid";

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Notes a process.
pub(crate) fn write(path: &Path, pid: u32) -> io::Result<()> {
    let start = start_time(pid)?.ok_or(ErrorKind::NotFound)?;
    fs::write(path, format!("{pid} {start}\n"))
}

/// Kills the noted process if it still runs, waits until it is gone, and returns its pid. None without a note.
pub(crate) fn kill(path: &Path) -> io::Result<Option<u32>> {
    let note = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        note => note?,
    };
    let fields = note.split_once(' ').and_then(|(pid, start)| Some((pid.parse().ok()?, start.trim().parse().ok()?)));
    let (pid, start): (u32, u64) = fields.ok_or(ErrorKind::InvalidData)?;
    let Some(handle) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let process = match pidfd_open(handle, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(Some(pid)),
        process => process?,
    };
    // Read after the process is held: from here on the pid can't come to mean another.
    if start_time(pid)? != Some(start) {
        return Ok(Some(pid));
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) => {}
        Err(Errno::SRCH) => return Ok(Some(pid)),
        Err(error) => return Err(error.into()),
    }
    let limit = Timespec { tv_sec: GONE_WITHIN.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))? {
        0 => Err(ErrorKind::TimedOut.into()),
        _ => Ok(Some(pid)),
    }
}

/// When a process started, in clock ticks since boot (proc_pid_stat(5), field 22). None if there is no such process.
fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        stat => stat?,
    };
    // The second field, the program's name, may hold anything, also parentheses; the last one ends it.
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let start = after_name.and_then(|rest| rest.split(' ').nth(19)).and_then(|field| field.parse().ok());
    start.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    #[test]
    fn noted_process_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(VMM);
        assert_eq!(kill(&path).unwrap(), None);
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        write(&path, child.id()).unwrap();
        assert_eq!(kill(&path).unwrap(), Some(child.id()));
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert_eq!(kill(&path).unwrap(), Some(child.id()));
    }

    #[test]
    fn another_process_of_the_same_pid_is_spared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(VMM);
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(&path, format!("{} 1\n", child.id())).unwrap();
        kill(&path).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
