//! Paths inside a container's root file system, which is hostile: no symbolic link may lead out of it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A directory in which every path ends inside.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
}

/// How many links in a row may lead to what is still to be made: as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Directory,
    File,
}

impl Root {
    /// Opens `path` of the current root as a root of its own.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { directory: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Opens an existing path; `flags` as for open, links followed inside the root.
    pub(crate) fn find(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        loop {
            match rustix::fs::openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), inside) {
                // A rename elsewhere raced with the lookup of "..": the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Opens `path` as a mount point (`O_PATH`), making it and its parents if they are missing.
    pub(crate) fn mount_point(&self, path: &Path, shape: Shape) -> io::Result<OwnedFd> {
        match self.find(path, OFlags::PATH) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        if shape == Shape::Directory {
            return self.make_directories(path);
        }
        let (parent, name) = split(path)?;
        let parent = self.make_directories(&parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) | Err(Errno::EXIST) => self.find(path, OFlags::PATH),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory (`O_PATH`), making every missing part of its path, also where a link leads to it.
    pub(crate) fn make_directories(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_directories_behind(path, MAX_LINKS)
    }

    fn make_directories_behind(&self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        let mut reached = PathBuf::new();
        let mut directory = rustix::io::fcntl_dupfd_cloexec(&self.directory, 3)?;
        for component in path.components() {
            let name = match component {
                Component::Normal(name) => name,
                // The lookup resolves ".." itself, after links, as the kernel would.
                Component::ParentDir => OsStr::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            let parent = reached.clone();
            reached.push(name);
            directory = match self.find(&reached, OFlags::PATH | OFlags::DIRECTORY) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => self.find(&reached, OFlags::PATH | OFlags::DIRECTORY)?,
                        Err(Errno::EXIST) => {
                            let target = rustix::fs::readlinkat(&directory, name, Vec::new())?;
                            let target = parent.join(OsStr::from_bytes(target.to_bytes()));
                            let links = links.checked_sub(1).ok_or_else(|| io::Error::from(Errno::LOOP))?;
                            self.make_directories_behind(&target, links)?
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                result => result?,
            };
        }
        Ok(directory)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// Splits a path into its parent and its last part.
pub(crate) fn split(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), PathBuf::from(name))),
        _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn links_stay_inside() {
        let (directory, root) = root();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/passwd", directory.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", directory.path().join("relative")).unwrap();
        for path in ["absolute", "/relative", "/../../etc/passwd"] {
            let file = root.find(Path::new(path), OFlags::RDONLY).unwrap();
            assert_eq!(io::read_to_string(std::fs::File::from(file)).unwrap(), "inside", "{path}");
        }
    }

    #[test]
    fn makes_missing_mount_points() {
        let (directory, root) = root();
        root.mount_point(Path::new("/a/b/c"), Shape::Directory).unwrap();
        root.mount_point(Path::new("/a/d/file"), Shape::File).unwrap();
        assert!(directory.path().join("a/b/c").is_dir());
        assert!(directory.path().join("a/d/file").is_file());
        root.mount_point(Path::new("/a/b/c"), Shape::Directory).unwrap();
    }

    #[test]
    fn makes_what_links_lead_to() {
        let (directory, root) = root();
        symlink("/new/place", directory.path().join("absolute")).unwrap();
        symlink("../beside", directory.path().join("relative")).unwrap();
        symlink("/round", directory.path().join("round")).unwrap();
        root.mount_point(Path::new("/absolute/below/file"), Shape::File).unwrap();
        assert!(directory.path().join("new/place/below/file").is_file());
        root.mount_point(Path::new("/relative"), Shape::Directory).unwrap();
        assert!(directory.path().join("beside").is_dir());
        assert!(root.mount_point(Path::new("/round/x"), Shape::Directory).is_err());
    }

    #[test]
    fn makes_directories_behind_links_inside() {
        let (directory, root) = root();
        std::fs::create_dir(directory.path().join("real")).unwrap();
        symlink("/real", directory.path().join("link")).unwrap();
        root.mount_point(Path::new("/link/new"), Shape::Directory).unwrap();
        assert!(directory.path().join("real/new").is_dir());
    }
}
