//! A container's root file system: layers, and where it is writable, the upper disk over them.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use agent_proto::RootFilesystem;
use rustix::mount::{UnmountFlags, unmount};

use super::disk::{Disk, DiskError};
use super::layers::Layers;
use crate::container::{attach, give, new_filesystem};
use crate::refusal::{Kind, Refusal};

/// A root file system that can't be assembled or taken apart.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("rootfs.layers: at least one is needed")]
    NoLayers,
    #[error("rootfs.layers[{index}]: {length} bytes at {offset} is no run of whole sectors")]
    BadExtent { index: usize, offset: u64, length: u64 },
    #[error("rootfs.upper_directory, rootfs.work_directory: {name:?} is no plain name")]
    BadDirectory { name: String },
    #[error("rootfs.layers: one machine can hold {} layers", crate::sys::MAX_PARTITIONS)]
    TooManyLayers,
    #[error("rootfs.writable: the machine's one upper disk is in use by another container")]
    UpperInUse,
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
            RootfsError::NoLayers | RootfsError::BadExtent { .. } | RootfsError::BadDirectory { .. } => {
                Kind::InvalidArgument
            }
            RootfsError::TooManyLayers => Kind::ResourceExhausted,
            RootfsError::UpperInUse | RootfsError::Disk(DiskError::Missing { .. }) => Kind::FailedPrecondition,
            RootfsError::Disk(DiskError::TooSmall { .. }) => Kind::DeadlineExceeded,
            RootfsError::Io { .. } => Kind::Internal,
        };
        Self::from_error(kind, &error)
    }
}

const DIRECTORY: &str = "/run/supermachine/containers";
/// Where the upper disk is mounted: there is one.
const UPPER: &str = "/run/supermachine/upper";

/// Assembles `wanted` for `container` and answers where it is.
pub(crate) async fn assemble(
    layers: &mut Layers,
    container: &str,
    wanted: &RootFilesystem,
) -> Result<PathBuf, RootfsError> {
    check(wanted)?;
    let lower = layers.mount(&wanted.layers).await?;
    let path = Path::new(DIRECTORY).join(container);
    let mut data: Vec<(String, Option<String>)> = Vec::new();
    if wanted.writable {
        let top = lower.last().ok_or(RootfsError::NoLayers)?;
        data.extend(mount_upper(container, wanted, top).await?);
    }
    let root = match lower.as_slice() {
        // Overlayfs wants two layers or a writable one.
        [only] if !wanted.writable => crate::container::copy_tree(only, false).map_err(io("open", only))?,
        _ => {
            // One key per layer, topmost first: no limit of a page for all of them together.
            let keys = lower.iter().rev().map(|path| ("lowerdir+".to_owned(), Some(path.display().to_string())));
            let attributes = if wanted.writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
            data.splice(0..0, keys);
            new_filesystem("overlay", Some(Path::new("overlay")), &data, attributes)
                .map_err(io("mount overlay on", &path))?
        }
    };
    mount_at(root.as_fd(), &path)?;
    Ok(path)
}

/// Takes a container's root file system apart, with all that was written to it on the disk. Succeeds if there is none.
pub(crate) fn dismantle(container: &str) -> Result<(), RootfsError> {
    let path = Path::new(DIRECTORY).join(container);
    let owner = Path::new(UPPER).with_extension("owner");
    if std::fs::read_to_string(&owner).is_ok_and(|owner| owner == container) {
        // The overlay's last users die with the container, which the kernel may still be cleaning up: this makes
        // the data safe whether or not the disk can be let go of at once.
        let upper = File::open(UPPER).map_err(io("open", UPPER))?;
        rustix::fs::syncfs(&upper).map_err(|error| io("flush", UPPER)(error.into()))?;
        drop(upper);
        detach(&path)?;
        detach(Path::new(UPPER))?;
        return std::fs::remove_file(&owner).map_err(io("remove", owner));
    }
    detach(&path)
}

/// Mounts the upper disk and answers the options that put it on top of `lower`.
async fn mount_upper(
    container: &str,
    wanted: &RootFilesystem,
    lower: &Path,
) -> Result<[(String, Option<String>); 2], RootfsError> {
    let owner = Path::new(UPPER).with_extension("owner");
    if owner.exists() {
        return Err(RootfsError::UpperInUse);
    }
    let disk = Disk::find("upper")?;
    disk.await_capacity(wanted.upper_bytes.max(1)).await?;
    // Without this, ext4 would fill in a sparse template's inode tables from a kernel thread.
    let data = [("noinit_itable".to_owned(), None)];
    let upper = new_filesystem("ext4", Some(&disk.path()), &data, 0)
        .map_err(io("mount upper disk (is it an ext4?)", disk.path()))?;
    mount_at(upper.as_fd(), Path::new(UPPER))?;
    std::fs::write(&owner, container).map_err(io("write", &owner))?;
    let [files, work] = [&wanted.upper_directory, &wanted.work_directory].map(|name| Path::new(UPPER).join(name));
    if !files.exists() {
        make_like(lower, &files).map_err(io("make", &files))?;
    }
    std::fs::create_dir_all(&work).map_err(io("make", &work))?;
    let option = |name: &str, path: PathBuf| (name.to_owned(), Some(path.display().to_string()));
    Ok([option("upperdir", files), option("workdir", work)])
}

/// Makes the directory that is to lie over another, which shows as the one below did.
fn make_like(below: &Path, path: &Path) -> std::io::Result<()> {
    let like = std::fs::metadata(below)?;
    std::fs::create_dir(path)?;
    give(path, &like)
}

fn check(wanted: &RootFilesystem) -> Result<(), RootfsError> {
    if wanted.layers.is_empty() {
        return Err(RootfsError::NoLayers);
    }
    for (index, layer) in wanted.layers.iter().enumerate() {
        let (offset, length) = (layer.offset_bytes, layer.length_bytes);
        let whole = offset % 512 == 0 && length % 512 == 0 && length > 0 && offset.checked_add(length).is_some();
        if !whole {
            return Err(RootfsError::BadExtent { index, offset, length });
        }
    }
    let names = [&wanted.upper_directory, &wanted.work_directory];
    if let Some(name) = names.into_iter().find(|name| wanted.writable && !is_plain(name)) {
        return Err(RootfsError::BadDirectory { name: name.clone() });
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}

/// Attaches a mount at `path`, which is made if it is missing.
pub(super) fn mount_at(mount: BorrowedFd<'_>, path: &Path) -> Result<(), RootfsError> {
    std::fs::create_dir_all(path).map_err(io("make", path))?;
    let point = File::open(path).map_err(io("open", path))?;
    attach(mount, point.as_fd()).map_err(io("mount on", path))
}

fn detach(path: &Path) -> Result<(), RootfsError> {
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
