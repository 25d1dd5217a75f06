//! Finds the layer files behind a root file system's mounts.
//!
//! containerd hands over the mounts of a snapshot: an overlay of `<root>/snapshots/<id>/fs` directories, or a bind mount
//! of a single one. Beside each such directory lies what the VM is given: `layer.squashfs` for a committed snapshot, and
//! for the active one what a [`WritableLayer`] is made of.

use std::path::{Path, PathBuf};

use containerd_shim_protos::types::mount::Mount;
use supermachine::{UpperDirectories, WritableLayer};

use super::{BundleError, images};

/// Directory of all snapshots, below the snapshotter's root.
const SNAPSHOTS: &str = "snapshots";
/// A snapshot's files as directories, within its own directory.
const FILES: &str = "fs";
const LAYER_FILE: &str = "layer.squashfs";

/// The disks that make a root file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RootLayers {
    /// Squashfs or erofs images, top layer last.
    pub(crate) layers: Vec<PathBuf>,
    /// None for a read-only root.
    pub(crate) writable: Option<Writable>,
}

/// What is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Writable {
    /// A snapshot of ours.
    Snapshot(WritableLayer),
    /// An image that another snapshotter made, and where in it.
    Image(PathBuf, UpperDirectories),
}

/// Asks for layers that aren't converted yet.
#[async_trait::async_trait]
pub(crate) trait EnsureLayers: Send + Sync {
    /// The squashfs file of each snapshot directory, in the same order.
    async fn ensure(&self, directories: &[PathBuf]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Finds the disks behind `mounts`: images that are listed, or a snapshot below `root`. None if they are neither, but
/// those of another snapshotter.
///
/// When every layer is there this is one `stat` each; otherwise `daemon` is asked.
pub(crate) async fn locate(
    root: &Path,
    mounts: &[Mount],
    daemon: &dyn EnsureLayers,
) -> Result<Option<RootLayers>, BundleError> {
    if mounts.iter().any(images::is_image) {
        return images::assemble(mounts).map(Some);
    }
    let [mount] = mounts else { return Ok(None) };
    let Some(snapshot) = Snapshot::parse(root, mount) else { return Ok(None) };
    let writable = snapshot.upper.map(|files| Writable::Snapshot(WritableLayer::of(&files)));
    let files: Vec<_> = snapshot.lower.iter().map(|directory| directory.with_file_name(LAYER_FILE)).collect();
    let missing = files.iter().zip(&snapshot.lower).find(|(file, _)| !file.exists()).map(|(_, directory)| directory);
    let layers = match missing {
        None => files,
        Some(missing) => {
            let answer = daemon.ensure(&snapshot.lower).await;
            answer.map_err(|source| BundleError::Layer { path: missing.clone(), source })?
        }
    };
    Ok(Some(RootLayers { layers, writable }))
}

/// Snapshot directories of a mount.
struct Snapshot {
    /// Top layer last.
    lower: Vec<PathBuf>,
    upper: Option<PathBuf>,
}

impl Snapshot {
    /// None if this is no mount of a snapshot below `root`.
    fn parse(root: &Path, mount: &Mount) -> Option<Self> {
        let directory = |path: &str| is_snapshot(root, Path::new(path)).then(|| PathBuf::from(path));
        match mount.type_.as_str() {
            "overlay" => {
                let option = |name: &str| mount.options.iter().find_map(|option| option.strip_prefix(name));
                // Overlay lists the top layer first.
                let lower = option("lowerdir=")?.split(':').rev().map(directory).collect::<Option<Vec<_>>>()?;
                let upper = match option("upperdir=") {
                    Some(path) => Some(directory(path)?),
                    None => None,
                };
                Some(Self { lower, upper })
            }
            "bind" => {
                let source = directory(&mount.source)?;
                if mount.options.iter().any(|option| option == "ro") {
                    Some(Self { lower: vec![source], upper: None })
                } else {
                    Some(Self { lower: Vec::new(), upper: Some(source) })
                }
            }
            _ => None,
        }
    }
}

fn is_snapshot(root: &Path, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(root.join(SNAPSHOTS)) else { return false };
    let mut parts = below.components();
    parts.next().is_some() && parts.as_path() == Path::new(FILES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct NoDaemon;

    #[async_trait::async_trait]
    impl EnsureLayers for NoDaemon {
        async fn ensure(&self, _: &[PathBuf]) -> Result<Vec<PathBuf>, Box<dyn std::error::Error + Send + Sync>> {
            Err("no daemon".into())
        }
    }

    fn mount(type_: &str, source: &str, options: &[String]) -> Mount {
        Mount { type_: type_.into(), source: source.into(), options: options.to_vec(), ..Default::default() }
    }

    fn snapshot(root: &Path, id: u32) -> Option<Writable> {
        Some(Writable::Snapshot(WritableLayer::new(root.join(format!("snapshots/{id}")))))
    }

    fn snapshots(ids: &[u32]) -> (tempfile::TempDir, Vec<String>) {
        let root = tempfile::tempdir().unwrap();
        let directories = ids.iter().map(|id| {
            let directory = root.path().join(format!("snapshots/{id}/fs"));
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.with_file_name(LAYER_FILE), "").unwrap();
            directory.display().to_string()
        });
        let directories = directories.collect();
        (root, directories)
    }

    #[tokio::test]
    async fn overlay_gives_layers_with_the_top_last() {
        let (root, dirs) = snapshots(&[1, 2, 3]);
        let options = [
            "index=off".to_owned(),
            format!("workdir={}/snapshots/3/work", root.path().display()),
            format!("upperdir={}", dirs[2]),
            format!("lowerdir={}:{}", dirs[1], dirs[0]),
        ];
        let found = locate(root.path(), &[mount("overlay", "overlay", &options)], &NoDaemon).await;
        let found = found.unwrap().unwrap();
        let file = |id: u32, name: &str| root.path().join(format!("snapshots/{id}/{name}"));
        assert_eq!(found.layers, [file(1, LAYER_FILE), file(2, LAYER_FILE)]);
        assert_eq!(found.writable, snapshot(root.path(), 3));
    }

    #[tokio::test]
    async fn bind_is_a_single_layer_or_a_bare_upper() {
        let (root, dirs) = snapshots(&[7]);
        let found = locate(root.path(), &[mount("bind", &dirs[0], &["ro".into(), "rbind".into()])], &NoDaemon).await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.layers, found.writable), (vec![root.path().join("snapshots/7/layer.squashfs")], None));
        let found = locate(root.path(), &[mount("bind", &dirs[0], &["rw".into(), "rbind".into()])], &NoDaemon).await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.layers, found.writable), (vec![], snapshot(root.path(), 7)));
    }

    #[tokio::test]
    async fn missing_layer_is_asked_for_and_named() {
        let (root, dirs) = snapshots(&[1]);
        fs::remove_file(root.path().join("snapshots/1/layer.squashfs")).unwrap();
        let error = locate(root.path(), &[mount("bind", &dirs[0], &["ro".into()])], &NoDaemon).await.unwrap_err();
        assert!(matches!(error, BundleError::Layer { path, .. } if path == Path::new(&dirs[0])));
    }

    #[tokio::test]
    async fn other_snapshotters_have_no_layers() {
        let (root, _) = snapshots(&[1]);
        let foreign = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs";
        for mount in [
            mount("overlay", "overlay", &[format!("lowerdir={foreign}")]),
            mount("bind", foreign, &["ro".into()]),
            mount("bind", &format!("{}/snapshots/fs", root.path().display()), &["ro".into()]),
            mount("bind", &format!("{}/snapshots/1/work/fs", root.path().display()), &["ro".into()]),
        ] {
            assert_eq!(locate(root.path(), std::slice::from_ref(&mount), &NoDaemon).await.unwrap(), None, "{mount}");
        }
    }
}
