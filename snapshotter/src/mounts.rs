//! How a snapshot is mounted: always as exactly one plain `overlay` or `bind`, the encoding that every client of
//! containerd can mount by itself.

use std::path::Path;

use crate::directory::Directory;
use crate::metastore::Lineage;
use crate::record::Kind;

/// One mount, in containerd's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) kind: &'static str,
    pub(crate) source: String,
    pub(crate) options: Vec<String>,
}

/// Overlay options that depend on the running kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct OverlayOptions(Vec<String>);

impl OverlayOptions {
    /// Without `index=off` a kernel that has the index on by default refuses a lower directory that was the upper
    /// one of another mount.
    pub(crate) fn detect() -> Self {
        let index = Path::new("/sys/module/overlay/parameters/index").exists();
        Self(if index { vec!["index=off".to_owned()] } else { Vec::new() })
    }
}

/// The mount of an active snapshot or a view.
pub(crate) fn mount(directory: &Directory, snapshot: &Lineage, overlay: &OverlayOptions) -> Mount {
    let active = snapshot.kind == Kind::Active;
    let text = |path: &Path| path.display().to_string();
    let bind = |path: &Path, access: &str| Mount {
        kind: "bind",
        source: text(path),
        options: vec![access.to_owned(), "rbind".to_owned()],
    };
    match snapshot.ancestors.as_slice() {
        // An overlay needs a lower directory.
        [] => bind(&directory.files(snapshot.id), if active { "rw" } else { "ro" }),
        [only] if !active => bind(&directory.files(*only), "ro"),
        ancestors => {
            let mut options = Vec::new();
            if active {
                options.push(format!("workdir={}", text(&directory.work(snapshot.id))));
                options.push(format!("upperdir={}", text(&directory.files(snapshot.id))));
            } else {
                options.push("ro".to_owned());
            }
            let lower: Vec<String> = ancestors.iter().map(|id| text(&directory.files(*id))).collect();
            options.push(format!("lowerdir={}", lower.join(":")));
            options.extend_from_slice(&overlay.0);
            Mount { kind: "overlay", source: "overlay".to_owned(), options }
        }
    }
}
