//! Extended attributes as records of an archive.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use agent_proto::MOUNT_NOTES;
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, lgetxattr, llistxattr, lsetxattr};
use rustix::io::Errno;

/// What precedes an attribute's name in a record's key.
const PREFIX: &str = "SCHILY.xattr.";

/// Attributes as keys and values of records.
pub(super) type Records = Vec<(String, Vec<u8>)>;

/// The attributes of an open file.
pub(super) fn read_open(file: BorrowedFd<'_>) -> io::Result<Records> {
    read(|room| flistxattr(file, room), |name, room| fgetxattr(file, name, room))
}

/// The attributes of `path` itself, not of what it links to.
pub(super) fn read_path(path: &Path) -> io::Result<Records> {
    read(|room| llistxattr(path, room), |name, room| lgetxattr(path, name, room))
}

fn read(
    list: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Records> {
    let names = match grow(list) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut records = Vec::new();
    // Names are text in every kernel's book; one that isn't couldn't be a key.
    let names = names.split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
    for name in names.filter(|name| !name.is_empty() && !MOUNT_NOTES.contains(name)) {
        match grow(|room| get(name, room)) {
            // Removed in this moment.
            Err(Errno::NODATA) => {}
            value => records.push((format!("{PREFIX}{}", encode(name)), value?)),
        }
    }
    Ok(records)
}

/// Sets the attribute that a record stands for; other records mean nothing here.
pub(super) fn apply(path: &Path, key: &str, value: &[u8]) -> io::Result<()> {
    let Some(name) = key.strip_prefix(PREFIX) else { return Ok(()) };
    Ok(lsetxattr(path, decode(name), value, XattrFlags::empty())?)
}

/// As GNU tar has it: `=` would end the key.
fn encode(name: &str) -> String {
    name.replace('%', "%25").replace('=', "%3D")
}

fn decode(name: &str) -> String {
    name.replace("%3D", "=").replace("%25", "%")
}

/// Calls `fill` with more and more room until what it has to say fits.
fn grow(mut fill: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    /// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`.
    const MOST: usize = 1 << 16;
    let mut buffer = vec![0; 512];
    loop {
        match fill(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < MOST => buffer.resize(buffer.len() * 8, 0),
            filled => {
                buffer.truncate(filled?);
                return Ok(buffer);
            }
        }
    }
}
