//! What a VM leaves on the host when its shim dies, noted in the bundles of containers that joined it: the bundle of the
//! container that it was started for may be gone when they are cleaned up.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// In the bundle.
const FILE: &str = "vm.json";

/// Where to look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remains {
    /// The VM's directory.
    pub(crate) state: PathBuf,
    /// The VMM's cgroup.
    pub(crate) cgroup: Option<PathBuf>,
}

impl Remains {
    /// Notes it in a bundle.
    pub(crate) fn write(&self, bundle: &Path) -> io::Result<()> {
        fs::write(bundle.join(FILE), serde_json::to_vec(self)?)
    }

    /// Reads a bundle's note, if there is one.
    pub(crate) fn read(bundle: &Path) -> io::Result<Option<Self>> {
        match fs::read(bundle.join(FILE)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            text => Ok(Some(serde_json::from_slice(&text?)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_where_it_was_left() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Remains::read(bundle.path()).unwrap(), None);
        let remains = Remains { state: "/run/vm/a".into(), cgroup: Some("/sys/fs/cgroup/a".into()) };
        remains.write(bundle.path()).unwrap();
        assert_eq!(Remains::read(bundle.path()).unwrap(), Some(remains));
        fs::write(bundle.path().join(FILE), "cut of").unwrap();
        assert!(Remains::read(bundle.path()).is_err());
    }
}
