//! A layer with files of the host: root's, and as old as can be, so that only their content counts.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use supermachine::Digest;
use tar::{Builder, EntryType, Header};

use super::{ExtraFile, ExtraFilesError};

/// A layer's archive, not compressed, from its beginning on.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) file: File,
    pub(super) digest: Digest,
    pub(super) bytes: u64,
}

/// Writes files into a layer.
pub(super) fn write(files: &[ExtraFile]) -> Result<Layer, ExtraFilesError> {
    let file = tempfile::tempfile().map_err(ExtraFilesError::Write)?;
    let mut archive = Builder::new(file);
    for ExtraFile { host, guest } in files {
        append(&mut archive, host, guest.strip_prefix("/").unwrap_or(guest))?;
    }
    let finish = || {
        let mut file = archive.into_inner()?;
        file.rewind()?;
        Ok(Layer { digest: Digest::of_file(&file)?, bytes: file.metadata()?.len(), file })
    };
    finish().map_err(ExtraFilesError::Write)
}

/// Appends what is at a path, and everything below it.
fn append(archive: &mut Builder<File>, path: &Path, name: &Path) -> Result<(), ExtraFilesError> {
    let unreadable = |source| ExtraFilesError::Read { path: path.to_owned(), source };
    let metadata = fs::symlink_metadata(path).map_err(unreadable)?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(unreadable)?;
        let mut header = header(EntryType::Symlink, &metadata, 0);
        return archive.append_link(&mut header, name, target).map_err(ExtraFilesError::Write);
    }
    if kind.is_file() {
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut header = header(EntryType::Regular, &metadata, length);
        // A file that shrinks meanwhile would shift what follows.
        let content = file.take(length).chain(io::repeat(0)).take(length);
        return archive.append_data(&mut header, name, content).map_err(ExtraFilesError::Write);
    }
    if !kind.is_dir() {
        return Err(ExtraFilesError::Kind { path: path.to_owned() });
    }
    let mut header = header(EntryType::Directory, &metadata, 0);
    archive.append_data(&mut header, name, io::empty()).map_err(ExtraFilesError::Write)?;
    let entries: io::Result<Vec<PathBuf>> = fs::read_dir(path).map_err(unreadable)?.map(|it| Ok(it?.path())).collect();
    let mut entries = entries.map_err(unreadable)?;
    entries.sort();
    entries.iter().try_for_each(|entry| append(archive, entry, &name.join(entry.file_name().unwrap_or_default())))
}

fn header(kind: EntryType, metadata: &Metadata, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.permissions().mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes);
    header
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn extra(host: PathBuf, guest: &str) -> ExtraFile {
        ExtraFile { host, guest: guest.into() }
    }

    #[test]
    fn a_layer_has_everything_below_and_depends_on_content_alone() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("b")).unwrap();
        fs::write(tree.join("b/file"), "content").unwrap();
        fs::set_permissions(tree.join("b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("b/file", tree.join("a")).unwrap();
        let files = [extra(tree.clone(), "/opt/tree"), extra(tree.join("b/file"), "/etc/one")];
        let mut layer = write(&files).unwrap();
        let mut content = Vec::new();
        layer.file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, layer.bytes);
        let mut archive = tar::Archive::new(&*content);
        let entries: Vec<_> = archive.entries().unwrap().map(Result::unwrap).collect();
        let names: Vec<_> = entries.iter().map(|entry| entry.path().unwrap().display().to_string()).collect();
        assert_eq!(names, ["opt/tree", "opt/tree/a", "opt/tree/b", "opt/tree/b/file", "etc/one"]);
        assert_eq!((entries[3].header().mode().unwrap(), entries[3].size()), (0o4755, 7));
        assert_eq!(entries[1].link_name().unwrap().unwrap(), Path::new("b/file"));

        let file = File::options().write(true).open(tree.join("b/file")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(1000)).unwrap();
        assert_eq!(write(&files).unwrap().digest, layer.digest);
        fs::write(tree.join("b/file"), "CONTENT").unwrap();
        assert_ne!(write(&files).unwrap().digest, layer.digest);
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert!(matches!(write(&[extra(socket.clone(), "/s")]), Err(ExtraFilesError::Kind { path }) if path == socket));
        let absent = dir.path().join("absent");
        assert!(
            matches!(write(&[extra(absent.clone(), "/s")]), Err(ExtraFilesError::Read { path, .. }) if path == absent)
        );
    }
}
