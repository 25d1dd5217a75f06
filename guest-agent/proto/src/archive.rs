//! What the archives of writable layers leave out, whoever writes them.

/// Extended attributes that overlayfs noted for the one mount it made the file with: file handles of lower files, link
/// counts. They mean nothing elsewhere, and the host's kernel would follow them to any of its files. What describes the
/// layer stays: `opaque`, `redirect`, `metacopy`, `whiteout` (`Documentation/filesystems/overlayfs.rst`).
pub const MOUNT_NOTES: [&str; 6] = [
    "trusted.overlay.origin",
    "trusted.overlay.impure",
    "trusted.overlay.nlink",
    "trusted.overlay.protattr",
    "trusted.overlay.upper",
    "trusted.overlay.uuid",
];
