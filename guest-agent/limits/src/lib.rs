//! `linux.resources` of the OCI runtime spec as settings of a cgroup (version 2): the guest's, in which a container
//! runs, and the host's, in which its VMM does.
#![deny(unsafe_code)]

mod settings;
mod update;

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

pub use settings::limits;
pub use update::{Before, UpdateError, update};

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The spec's field, for messages.
    pub field: String,
    /// The control file's name.
    pub file: String,
    /// What is written to it.
    pub value: String,
}

/// A limit that was not set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// `unified` names a file that limits nothing: one elsewhere, or one that acts on the cgroup's processes.
    #[error("{field}: {file:?} is no control file of a limit")]
    NoLimit {
        /// The spec's field.
        field: String,
        /// What it names.
        file: String,
    },
    /// The kernel refused the value.
    #[error("{field}: {file} = {value:?} in the cgroup")]
    Refused {
        /// The spec's field.
        field: String,
        /// The control file.
        file: String,
        /// What was to be written.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Limit {
    /// Sets it for a cgroup.
    pub fn set(&self, cgroup: &Path) -> Result<(), LimitError> {
        write(&cgroup.join(&self.file), &self.value).map_err(|source| LimitError::Refused {
            field: self.field.clone(),
            file: self.file.clone(),
            value: self.value.clone(),
            source,
        })
    }
}

/// A control file exists or it doesn't: none is made, as `fs::write` would try.
fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).truncate(true).open(file)?.write_all(value.as_bytes())
}
