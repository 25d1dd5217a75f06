//! The file that every container's writable disk starts as a copy of: an empty ext4 file system, made once per node.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use tracing::info;

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("mkfs.ext4 isn't installed: install the Debian package e2fsprogs")]
    ToolMissing,
    #[error("mkfs.ext4 can't be run")]
    Tool(#[source] io::Error),
    #[error("mkfs.ext4 failed ({status}): {message}")]
    Failed { status: ExitStatus, message: String },
    #[error("the template {path} can't be made")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The journal bounds what a crash of a guest can lose, and every committed block is written twice through it: small
/// keeps the disk's copy on the host small.
const JOURNAL_MEBIBYTES: u64 = 8;
/// Below this size the journal takes a tenth or more: ext4 then chooses its own.
const SMALL_DISK_BYTES: u64 = 256 << 20;

/// Makes the template unless it is there with this size.
pub(crate) fn ensure(path: &Path, bytes: u64) -> Result<(), TemplateError> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes) {
        return Ok(());
    }
    let failed = |source| TemplateError::Io { path: path.to_owned(), source };
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let file = File::create(&partial).map_err(failed)?;
    file.set_len(bytes).map_err(failed)?;
    make_file_system(&partial, bytes)?;
    file.set_permissions(Permissions::from_mode(0o400)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)?;
    if let Some(folder) = path.parent() {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    }
    info!(path = %path.display(), bytes, "made the template of writable disks");
    Ok(())
}

/// The file is all holes, so nothing needs zeroing now or later by the guest's kernel; metadata lies together, so that
/// the file has few extents to copy; nothing is reserved for root, who is everybody in many containers. No orphan file:
/// mounting reads all 512 of its blocks, one after the other.
fn make_file_system(file: &Path, bytes: u64) -> Result<(), TemplateError> {
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-m", "0", "-O", "^resize_inode,^orphan_file"]);
    command.args(["-E", "assume_storage_prezeroed=1,nodiscard,packed_meta_blocks=1,root_owner=0:0"]);
    if bytes >= SMALL_DISK_BYTES {
        command.args(["-J", &format!("size={JOURNAL_MEBIBYTES}")]);
    }
    let output = command.arg(file).stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TemplateError::ToolMissing,
        _ => TemplateError::Tool(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(TemplateError::Failed { status: output.status, message })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_template_is_small_whole_and_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upper-template.ext4");
        ensure(&path, 8 << 30).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!(made.len(), 8 << 30);
        assert!(made.blocks() * 512 < 1 << 20, "{} blocks", made.blocks());
        let check = Command::new("e2fsck").args(["-f", "-n"]).arg(&path).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

        ensure(&path, 8 << 30).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
        ensure(&path, 64 << 20).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 64 << 20);
    }
}
