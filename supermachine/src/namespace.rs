//! A network namespace for a VM, made beside the rest of a start: the kernel takes about as long for it as a VMM for
//! its VM, and longer when many start at once.

use std::fs::File;
use std::io;
use std::thread::Builder;

use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

/// A namespace that is being made.
#[derive(Debug)]
pub(crate) struct Namespace(oneshot::Receiver<io::Result<File>>);

impl Namespace {
    /// Begins, in a thread of its own, since it is a thread that changes its namespace.
    pub(crate) fn begin() -> io::Result<Self> {
        let (sender, receiver) = oneshot::channel();
        Builder::new().name("namespace".to_owned()).spawn(move || {
            // If the start has failed meanwhile nobody listens, and the namespace ends with the file.
            let _unheard = sender.send(make());
        })?;
        Ok(Self(receiver))
    }

    /// Waits for it. It lives as long as the file does, or a process that has entered it.
    pub(crate) async fn made(self) -> io::Result<File> {
        self.0.await.unwrap_or_else(|_ended| Err(io::Error::other("the thread that makes it has ended")))
    }
}

fn make() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_namespace_is_new_and_nobody_has_entered_it() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("not root: no namespace can be made");
        }
        let inode = |file: File| file.metadata().unwrap().ino();
        let here = || inode(File::open("/proc/thread-self/ns/net").unwrap());
        let before = here();
        let (one, two) = (Namespace::begin().unwrap(), Namespace::begin().unwrap());
        let (one, two) = (inode(one.made().await.unwrap()), inode(two.made().await.unwrap()));
        assert!(one != before && two != before && here() == before);
    }
}
