//! Copying what a new file system covers into it (`tmpcopyup`).

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

/// Copies everything in the directory `from` into the directory `to`: kinds, modes, owners and links, not times.
pub(crate) fn copy_contents(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let facts = from.symlink_metadata()?;
    if facts.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        return lchown(to, Some(facts.uid()), Some(facts.gid()));
    }
    if facts.is_dir() {
        fs::create_dir(to)?;
        copy_contents(from, to)?;
    } else if facts.is_file() {
        io::copy(&mut File::open(from)?, &mut File::create_new(to)?)?;
    } else {
        let kind = FileType::from_raw_mode(facts.mode());
        mknodat(CWD, to, kind, Mode::from_raw_mode(facts.mode() & 0o7777), facts.rdev())?;
    }
    give(to, &facts)
}

/// Gives a file the owner and mode that another has. The owner comes first: changing it clears bits of the mode.
pub(crate) fn give(path: &Path, facts: &Metadata) -> io::Result<()> {
    chown(path, Some(facts.uid()), Some(facts.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(facts.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(from.path().join("folder")).unwrap();
        fs::write(from.path().join("folder/file"), "content").unwrap();
        fs::set_permissions(from.path().join("folder/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/nowhere", from.path().join("link")).unwrap();
        copy_contents(from.path(), to.path()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("folder/file")).unwrap(), "content");
        assert_eq!(to.path().join("folder/file").metadata().unwrap().mode() & 0o7777, 0o4751);
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new("/nowhere"));
    }
}
