//! Where a container's root file system comes from.

use std::fs;
use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;

use super::{BundleError, RootLayers};

/// What a root file system is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Root {
    /// Disks for a VM.
    Disks(RootLayers),
    /// A directory of the host, which a VM shares.
    Directory {
        /// Where it is.
        path: PathBuf,
        /// What has to be mounted there first: what another snapshotter made.
        mounts: Vec<Mount>,
    },
}

impl Default for Root {
    fn default() -> Self {
        Self::Disks(RootLayers::default())
    }
}

impl Root {
    /// The one that whoever called has put together, as Docker does, who goes on reading and writing there.
    pub(crate) fn at(path: PathBuf) -> Result<Self, BundleError> {
        if is_empty(&path) {
            Err(BundleError::NoRootfs { path })
        } else {
            Ok(Self::Directory { path, mounts: Vec::new() })
        }
    }

    /// Whether whoever called has put it together.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Self::Directory { mounts, .. } if mounts.is_empty())
    }

    /// Whether it is shared.
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_anything_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("missing")] {
            assert!(matches!(Root::at(path.clone()), Err(BundleError::NoRootfs { path: named }) if named == path));
        }
        fs::write(dir.path().join("file"), "").unwrap();
        let root = Root::at(dir.path().to_owned()).unwrap();
        assert_eq!(root, Root::Directory { path: dir.path().to_owned(), mounts: Vec::new() });
    }
}
