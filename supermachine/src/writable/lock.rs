//! A lock on a disk's file. It belongs to the open description that a VMM is given, and so lasts until that has ended,
//! however it ends; asking for it disturbs nobody.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, flock};

/// Locks a disk's file for whoever has this description of it. False if another has it locked.
pub fn lock_disk(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether someone has it locked.
pub(super) fn is_locked(file: &File) -> io::Result<bool> {
    let mut found = whole();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(found.l_type != F_UNLCK as i16)
}

fn whole() -> flock {
    flock { l_type: F_WRLCK as i16, l_whence: SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_its_description_s_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, "x").unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (one, other) = (open(), open());
        assert!(!is_locked(&other).unwrap());
        assert!(lock_disk(&one).unwrap() && lock_disk(&one).unwrap());
        assert!(!lock_disk(&other).unwrap() && is_locked(&other).unwrap());
        // As when it is sent to another process.
        let sent = one.try_clone().unwrap();
        drop(one);
        assert!(!lock_disk(&other).unwrap());
        drop(sent);
        assert!(lock_disk(&other).unwrap());
    }
}
