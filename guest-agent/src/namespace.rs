//! The network namespace of containers, entered for a moment.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Makes something, a socket say, in a network namespace or in this process's, in a thread that ends with it.
pub(crate) fn within<T: Send>(network: Option<&Path>, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            if let Some(network) = network {
                move_into_link_name_space(File::open(network)?.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            make()
        });
        thread.join()
    });
    made.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
