//! Files that requests carry, kept where containers can't reach them until they are bound in.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_proto::File;

use crate::container::InjectedFile;
use crate::refusal::{Kind, Refusal};

/// Most files one container may bring.
const MAX_FILES: usize = 64;

/// Writes a container's files below `directory`, one of its own.
pub(super) fn keep(directory: &Path, files: &[File]) -> Result<Vec<InjectedFile>, Refusal> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    if files.len() > MAX_FILES {
        return Err(Refusal::new(Kind::InvalidArgument, format!("files: at most {MAX_FILES}")));
    }
    let failed =
        |error: io::Error| Refusal::new(Kind::Internal, format!("keep files in {}: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let keep_one = |(index, file): (usize, &File)| {
        let target = PathBuf::from(&file.path);
        if !target.is_absolute() || target.file_name().is_none() {
            return Err(Refusal::new(
                Kind::InvalidArgument,
                format!("files[{index}].path: {:?} names no file", file.path),
            ));
        }
        let source = directory.join(index.to_string());
        write(&source, file).map_err(failed)?;
        Ok(InjectedFile { source, target, read_only: file.read_only })
    };
    files.iter().enumerate().map(keep_one).collect()
}

/// Gives files that are kept below `directory`, in the order in which they were brought, other contents.
pub(super) fn replace(directory: &Path, files: &[File]) -> Result<(), Refusal> {
    let failed =
        |error: io::Error| Refusal::new(Kind::Internal, format!("replace files in {}: {error}", directory.display()));
    files.iter().enumerate().try_for_each(|(index, file)| {
        let path = directory.join(index.to_string());
        // It is bound into the container, which sees this very file.
        let mut kept = fs::OpenOptions::new().write(true).truncate(true).open(path).map_err(failed)?;
        kept.write_all(&file.content).map_err(failed)
    })
}

/// Removes them; succeeds if there are none.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn write(path: &Path, file: &File) -> io::Result<()> {
    let mode = file.mode & 0o7777;
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    out.write_all(&file.content)?;
    out.set_permissions(fs::Permissions::from_mode(mode))
}
