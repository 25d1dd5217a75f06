//! How often machines were started, and how, since the host has booted.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bake::Level;

use crate::vm::Mode;

/// All ways there are.
const MODES: [Mode; 4] =
    [Mode::Cold, Mode::Restored(Level::Base), Mode::Restored(Level::Image), Mode::Restored(Level::Warm)];

/// A directory with a file for each way, on a file system that doesn't survive a reboot. Every start adds a byte to one:
/// any number of processes may do so at a time, and none can lose what another has counted.
#[derive(Debug)]
pub struct Tally {
    directory: PathBuf,
}

impl Tally {
    /// That of the host with this run directory.
    pub fn new(run: &Path) -> Self {
        Self { directory: run.join("starts") }
    }

    /// Counts a start.
    pub(crate) fn count(&self, mode: Mode) -> io::Result<()> {
        let path = self.path(mode);
        let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let mut file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
                open()?
            }
            opened => opened?,
        };
        file.write_all(b".")
    }

    /// How often each way was taken.
    pub fn read(&self) -> io::Result<Vec<(Mode, u64)>> {
        let read = |mode| match fs::metadata(self.path(mode)) {
            Ok(metadata) => Ok((mode, metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((mode, 0)),
            Err(error) => Err(error),
        };
        MODES.into_iter().map(read).collect()
    }

    fn path(&self, mode: Mode) -> PathBuf {
        self.directory.join(match mode {
            Mode::Cold => "cold",
            Mode::Restored(Level::Base) => "restored-base",
            Mode::Restored(Level::Image) => "restored-image",
            Mode::Restored(Level::Warm) => "restored-warm",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_by_how_they_went_whoever_counts() {
        let dir = tempfile::tempdir().unwrap();
        let tally = Tally::new(dir.path());
        assert_eq!(tally.read().unwrap(), MODES.map(|mode| (mode, 0)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..25).for_each(|_| tally.count(Mode::Restored(Level::Image)).unwrap()));
            }
        });
        tally.count(Mode::Cold).unwrap();
        let counts: Vec<_> = tally.read().unwrap().into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 0, 100, 0]);
    }
}
