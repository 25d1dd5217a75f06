//! The root directory of a VMM, entered from outside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::Builder;

use mount_tree::{MountAttributes, copy_tree, set_mount_attributes};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, mkdirat, mknodat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use tokio::sync::oneshot;

use super::{Opened, Volumes};

/// Mounts volumes in the root directory of a VMM: all of them or none.
pub(crate) async fn add(vmm: i32, volumes: Volumes) -> io::Result<()> {
    within(vmm, move || {
        let root = writable_root()?;
        for (index, volume) in volumes.0.iter().enumerate() {
            if let Err(error) = mount_one(&root, volume) {
                // What stays is refused the next time; there will hardly be one.
                let _kept = volumes.0.iter().take(index).try_for_each(|volume| unmount_one(&root, &volume.name));
                return Err(error);
            }
        }
        Ok(())
    })
    .await
}

/// Unmounts volumes from the root directory of a VMM. Succeeds for those that aren't there.
pub(crate) async fn remove(vmm: i32, names: Vec<String>) -> io::Result<()> {
    within(vmm, move || {
        let root = writable_root()?;
        names.iter().try_for_each(|name| unmount_one(&root, name))
    })
    .await
}

/// Does something in a thread of its own that sees the files that a process sees.
async fn within<T: Send + 'static>(pid: i32, action: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let (sender, receiver) = oneshot::channel();
    Builder::new().name("volumes".to_owned()).spawn(move || {
        // A thread that shares its working directory with others can't enter.
        let entered = unshare(CloneFlags::CLONE_FS).and_then(|()| setns(namespace, CloneFlags::CLONE_NEWNS));
        let _unheard = sender.send(entered.map_err(io::Error::from).and_then(|()| action()));
    })?;
    receiver.await.unwrap_or_else(|_ended| Err(io::Error::other("the thread that does it has ended")))
}

/// The root directory, through a mount on which entries can be made in it.
fn writable_root() -> io::Result<OwnedFd> {
    let root = copy_tree(Path::new("/"), false)?;
    let writable = MountAttributes { clear: libc::MOUNT_ATTR_RDONLY, ..MountAttributes::default() };
    set_mount_attributes(root.as_fd(), writable, false)?;
    Ok(root)
}

fn mount_one(root: &OwnedFd, volume: &Opened) -> io::Result<()> {
    let name = volume.name.as_str();
    let mode = Mode::RUSR | Mode::XUSR;
    if volume.is_directory {
        mkdirat(root, name, mode)?;
    } else {
        mknodat(root, name, FileType::RegularFile, mode, 0)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&volume.tree, "", CWD, Path::new("/").join(name), flags).map_err(|error| {
        let _kept = unmount_one(root, name);
        error.into()
    })
}

fn unmount_one(root: &OwnedFd, name: &str) -> io::Result<()> {
    match unmount(Path::new("/").join(name), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(root, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(root, name, AtFlags::REMOVEDIR)?,
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
