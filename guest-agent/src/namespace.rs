//! Namespaces, entered for a moment.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes something, a socket say, in a network namespace or in this process's.
pub(crate) fn within<T: Send>(network: Option<&Path>, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    match network {
        Some(network) => inside(File::open(network)?.as_fd(), LinkNameSpaceType::Network, make),
        None => make(),
    }
}

/// Works in a namespace, in a thread that ends with it.
pub(crate) fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    kind: LinkNameSpaceType,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let enter = || {
        move_into_link_name_space(namespace, Some(kind))?;
        work()
    };
    let ended = std::thread::scope(|scope| scope.spawn(enter).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
