//! Who may have written what.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Permission bits that let group or others write.
const FOREIGN_WRITE: u32 = 0o022;

/// What is wrong with a file's ownership, with the remedy; nothing if only this user can have written it.
pub(crate) fn distrust(path: &Path, metadata: &Metadata) -> Option<String> {
    let us = rustix::process::geteuid().as_raw();
    let path = path.display();
    if metadata.uid() != us {
        return Some(format!("belongs to user {}, not to {us}; remove it, or run `chown {us} {path}`", metadata.uid()));
    }
    if metadata.mode() & FOREIGN_WRITE != 0 {
        return Some(format!("can be written by others; run `chmod go-w {path}`"));
    }
    None
}
