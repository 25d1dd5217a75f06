//! The daemon's log: lines into the `log` FIFO of the bundle, which containerd copies to its own log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;
use tracing::level_filters::LevelFilter;

/// Sends `tracing` records to the FIFO. A line that finds it full is dropped: the daemon never waits for containerd.
///
/// A missing FIFO (the shim was started by hand) leaves the daemon without a log.
pub(crate) fn init(fifo: &Path, debug: bool) -> io::Result<()> {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let Some(file) = open(fifo)? else { return Ok(()) };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(Arc::new(file))
        .try_init()
        .map_err(io::Error::other)?;
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    Ok(())
}

/// Opened for reading too, so that it opens without a reader and a restarted containerd finds it alive.
fn open(fifo: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::io::{Read as _, Write as _};

    #[test]
    fn full_fifo_drops_lines_and_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(open(&path).unwrap().is_none());
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let mut fifo = open(&path).unwrap().unwrap();
        let line = [b'x'; 1024];
        let refused = (0..1000).find_map(|_| fifo.write_all(&line).err()).expect("a FIFO holds less than 1000 KiB");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let mut read = [0; 1024];
        fifo.read_exact(&mut read).unwrap();
        assert_eq!(read, line);
    }
}
