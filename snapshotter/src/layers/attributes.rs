//! Extended attributes of one file, as a layer keeps them.

use std::io;
use std::path::Path;

/// What squashfs can store.
const NAMESPACES: [&str; 3] = ["user.", "trusted.", "security."];

/// What overlayfs noted for the one mount it made the directory with: file handles of the lower files, link counts.
/// They mean nothing elsewhere and differ from run to run. What describes the layer stays: `opaque`, `redirect`,
/// `metacopy`, `whiteout`.
const MOUNT_NOTES: [&str; 5] = [
    "trusted.overlay.origin",
    "trusted.overlay.impure",
    "trusted.overlay.nlink",
    "trusted.overlay.upper",
    "trusted.overlay.uuid",
];

#[derive(Debug, Default)]
pub(super) struct Attributes {
    /// PAX record keys and values, sorted.
    pub(super) kept: Vec<(String, Vec<u8>)>,
    /// How many a squashfs layer can't hold.
    pub(super) left_out: u64,
}

/// Reads the attributes of `path` itself, not of what it links to.
pub(super) fn read(path: &Path) -> io::Result<Attributes> {
    let mut names = Vec::with_capacity(1024);
    match with_room(&mut names, || rustix::fs::llistxattr_query(path), |room| rustix::fs::llistxattr(path, room)) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Attributes::default()),
        other => other?,
    }
    let mut attributes = Attributes::default();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else {
            attributes.left_out += 1;
            continue;
        };
        // `=` ends the key of a PAX record.
        if text.contains('=') || !NAMESPACES.iter().any(|namespace| text.starts_with(namespace)) {
            attributes.left_out += 1;
        } else if !MOUNT_NOTES.contains(&text) {
            let mut value = Vec::with_capacity(256);
            with_room(
                &mut value,
                || rustix::fs::lgetxattr_query(path, text),
                |room| rustix::fs::lgetxattr(path, text, room),
            )?;
            attributes.kept.push((format!("SCHILY.xattr.{text}"), value));
        }
    }
    attributes.kept.sort();
    Ok(attributes)
}

/// Calls `fill` with the buffer's spare room, after making as much as `ask` says if it was too small.
fn with_room(
    buffer: &mut Vec<u8>,
    ask: impl Fn() -> rustix::io::Result<usize>,
    fill: impl Fn(rustix::buffer::SpareCapacity<'_, u8>) -> rustix::io::Result<usize>,
) -> rustix::io::Result<()> {
    loop {
        match fill(rustix::buffer::spare_capacity(buffer)) {
            Err(rustix::io::Errno::RANGE) => buffer.reserve(ask()?),
            other => return other.map(drop),
        }
    }
}
