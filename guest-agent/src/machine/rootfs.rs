//! A container's root file system: layers, and where it is writable, a part of the upper disk over them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use agent_proto::{Layer, RootFilesystem, VOLUMES};
use mount_tree::{attach, copy_tree};
use rustix::mount::{UnmountFlags, unmount};
use tokio::sync::Mutex;

use super::disk::DiskError;
use super::layers::Layers;
use super::upper;
use super::uppers::Uppers;
use crate::archive::ArchiveError;
use crate::container::new_filesystem;
use crate::refusal::{Kind, Refusal};

/// A root file system that can't be assembled or taken apart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("rootfs.layers: at least one is needed where nothing is writable")]
    NoLayers,
    #[error("rootfs.layers[{index}]: {length} bytes at {offset} is no run of whole sectors")]
    BadExtent { index: usize, offset: u64, length: u64 },
    #[error("rootfs.upper_directory, rootfs.work_directory, rootfs.volume: {name:?} is no plain name")]
    BadDirectory { name: String },
    #[error("rootfs.layers: one machine can hold {} layers", crate::sys::MAX_PARTITIONS)]
    TooManyLayers,
    #[error("rootfs.upper_offset_bytes: that part of the upper disk is in use by another container")]
    UpperInUse,
    #[error("block_devices[{index}]: {length} bytes at {offset} is no run of whole sectors")]
    BadDevice { index: usize, offset: u64, length: u64 },
    #[error(
        "rootfs.writable, block_devices: one machine can hold {} writable layers and block devices at a time",
        crate::sys::MAX_PARTITIONS
    )]
    TooManyUppers,
    #[error("something still uses {}", device.display())]
    UpperHeld { device: PathBuf },
    #[error("rootfs.upper_content: the writable layer holds files already")]
    UpperInhabited,
    #[error("what the writable layer is to hold")]
    Content(#[source] ArchiveError),
    #[error("export the writable layer")]
    Export(#[source] ArchiveError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl From<RootfsError> for Refusal {
    fn from(error: RootfsError) -> Self {
        let kind = match &error {
            RootfsError::NoLayers
            | RootfsError::BadExtent { .. }
            | RootfsError::BadDevice { .. }
            | RootfsError::BadDirectory { .. } => Kind::InvalidArgument,
            RootfsError::TooManyLayers | RootfsError::TooManyUppers => Kind::ResourceExhausted,
            RootfsError::UpperInUse | RootfsError::UpperInhabited | RootfsError::Disk(DiskError::Missing { .. }) => {
                Kind::FailedPrecondition
            }
            RootfsError::Disk(DiskError::TooSmall { .. }) | RootfsError::UpperHeld { .. } => Kind::DeadlineExceeded,
            RootfsError::Content(_) | RootfsError::Export(_) | RootfsError::Io { .. } => Kind::Internal,
        };
        Self::from_error(kind, &error)
    }
}

const DIRECTORY: &str = "/run/supermachine/containers";
/// What a writable layer lies over if there is nothing else.
const EMPTY: &str = "/run/supermachine/empty";

/// Makes a directory that the host serves the root of `container` and answers where it is.
pub(crate) fn adopt(container: &str, volume: &str) -> Result<PathBuf, RootfsError> {
    check_name(volume)?;
    let source = Path::new(VOLUMES).join(volume);
    let tree = copy_tree(&source, true).map_err(io("open", source))?;
    let path = Path::new(DIRECTORY).join(container);
    mount_at(tree.as_fd(), &path)?;
    Ok(path)
}

/// Assembles `wanted` for `container` and answers where it is.
pub(crate) async fn assemble(
    layers: &Mutex<Layers>,
    uppers: &Uppers,
    container: &str,
    wanted: &RootFilesystem,
    content: Option<OwnedFd>,
) -> Result<PathBuf, RootfsError> {
    check(wanted)?;
    let mut lower = layers.lock().await.mount(&wanted.layers).await?;
    if lower.is_empty() {
        std::fs::create_dir_all(EMPTY).map_err(io("make", EMPTY))?;
        lower.push(EMPTY.into());
    }
    let path = Path::new(DIRECTORY).join(container);
    let mut upper: Vec<(String, Option<String>)> = Vec::new();
    if wanted.writable {
        let top = lower.last().ok_or(RootfsError::NoLayers)?;
        upper.extend(upper::mount(uppers, container, wanted, top, content).await?);
    }
    let root = overlay(&lower, upper)?;
    mount_at(root.as_fd(), &path)?;
    Ok(path)
}

/// What all layers together hold, mounted nowhere and read-only. The layers stay mounted.
pub(crate) async fn merge(layers: &Mutex<Layers>, wanted: &[Layer]) -> Result<OwnedFd, RootfsError> {
    check_layers(wanted)?;
    let lower = layers.lock().await.mount(wanted).await?;
    if lower.is_empty() { Err(RootfsError::NoLayers) } else { overlay(&lower, Vec::new()) }
}

/// Lays mounted directories over each other, lowest first. `upper` says what goes over them; without it the result is
/// read-only.
fn overlay(lower: &[PathBuf], upper: Vec<(String, Option<String>)>) -> Result<OwnedFd, RootfsError> {
    match lower {
        // Overlayfs wants two layers or a writable one.
        [only] if upper.is_empty() => copy_tree(only, false).map_err(io("open", only)),
        _ => {
            // One key per layer, topmost first: no limit of a page for all of them together.
            let keys = lower.iter().rev().map(|path| ("lowerdir+".to_owned(), Some(path.display().to_string())));
            let attributes = if upper.is_empty() { libc::MOUNT_ATTR_RDONLY } else { 0 };
            let data: Vec<_> = keys.chain(upper).collect();
            let mounted = new_filesystem("overlay", Some(Path::new("overlay")), &data, attributes);
            mounted.map_err(io("mount an overlay over", lower.last().cloned().unwrap_or_default()))
        }
    }
}

/// Takes a container's root file system apart, with all that was written to it on the disk. Succeeds if there is none.
pub(crate) fn dismantle(uppers: &Uppers, container: &str) -> Result<(), RootfsError> {
    let path = Path::new(DIRECTORY).join(container);
    let Some(upper) = uppers.of(container) else { return detach(&path) };
    upper::unmount_after(&upper, || detach(&path))?;
    uppers.take_back(container);
    Ok(())
}

fn check(wanted: &RootFilesystem) -> Result<(), RootfsError> {
    if wanted.layers.is_empty() && !wanted.writable {
        return Err(RootfsError::NoLayers);
    }
    check_layers(&wanted.layers)?;
    let names = [&wanted.upper_directory, &wanted.work_directory];
    names.into_iter().filter(|_| wanted.writable).try_for_each(|name| check_name(name))
}

fn check_layers(layers: &[Layer]) -> Result<(), RootfsError> {
    for (index, layer) in layers.iter().enumerate() {
        let (offset, length) = (layer.offset_bytes, layer.length_bytes);
        if !is_run_of_sectors(offset, length) {
            return Err(RootfsError::BadExtent { index, offset, length });
        }
    }
    Ok(())
}

/// A directory at the root of the upper disk, or of the volumes, is named, not led to.
pub(super) fn check_name(name: &str) -> Result<(), RootfsError> {
    if is_plain(name) { Ok(()) } else { Err(RootfsError::BadDirectory { name: name.to_owned() }) }
}

/// Whether a part of a disk, in bytes, can be a partition.
pub(super) fn is_run_of_sectors(offset: u64, length: u64) -> bool {
    offset.is_multiple_of(512) && length.is_multiple_of(512) && length > 0 && offset.checked_add(length).is_some()
}

pub(super) fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

/// Attaches a mount at `path`, which is made if it is missing.
pub(super) fn mount_at(mount: BorrowedFd<'_>, path: &Path) -> Result<(), RootfsError> {
    std::fs::create_dir_all(path).map_err(io("make", path))?;
    let point = File::open(path).map_err(io("open", path))?;
    attach(mount, point.as_fd()).map_err(io("mount on", path))
}

pub(super) fn detach(path: &Path) -> Result<(), RootfsError> {
    match unmount(path, UnmountFlags::DETACH) {
        // Not there, or not mounted.
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(io("unmount", path)(error.into())),
    }
}

pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> RootfsError {
    let path = path.into();
    move |source| RootfsError::Io { action, path, source }
}
