//! `man`: manual pages.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use crate::arguments::Arguments;

/// The pages could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages to {}; name a directory that exists and may be written", directory.display())]
pub(crate) struct ManError {
    directory: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes `supermachine.1` and a page for each command.
pub(crate) fn run(directory: &Path) -> Result<(), ManError> {
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(|source| ManError { directory: directory.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command() {
        let directory = tempfile::tempdir().unwrap();
        run(directory.path()).unwrap();
        for page in ["supermachine.1", "supermachine-ls.1", "supermachine-doctor.1"] {
            assert!(directory.path().join(page).exists(), "{page}");
        }
        let error = run(Path::new("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
