//! Image layers: file system images one after the other on the layer disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use agent_proto::Layer;

use super::disk::Disk;
use super::rootfs::RootfsError;
use super::rootfs::{io, mount_at};
use crate::container::new_filesystem;
use crate::sys::{MAX_PARTITIONS, add_partition};

const DIRECTORY: &str = "/run/supermachine/layers";

/// Where an erofs begins to tell that it is one, and by what (`Documentation/filesystems/erofs.rst`).
const EROFS_OFFSET: u64 = 1024;
const EROFS_MAGIC: u32 = 0xe0f5_e1e2;

/// The kind of file system that begins at an offset of the disk: what isn't an erofs is taken for a squashfs.
fn kind_of(device: &File, offset: u64) -> std::io::Result<&'static str> {
    let mut magic = [0; 4];
    device.read_exact_at(&mut magic, offset.saturating_add(EROFS_OFFSET))?;
    Ok(if u32::from_le_bytes(magic) == EROFS_MAGIC { "erofs" } else { "squashfs" })
}

/// The layers that are mounted. They stay: another container of the same image finds them.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    mounted: BTreeMap<(u64, u64), PathBuf>,
}

impl Layers {
    /// Mounts every layer that isn't yet, and answers where they are, in the same order.
    pub(crate) async fn mount(&mut self, layers: &[Layer]) -> Result<Vec<PathBuf>, RootfsError> {
        let disk = Disk::find("layers")?;
        let end = layers.iter().map(|layer| layer.offset_bytes.saturating_add(layer.length_bytes)).max().unwrap_or(0);
        disk.await_capacity(end).await?;
        let device = File::open(disk.path()).map_err(io("open", disk.path()))?;
        let mut paths = Vec::with_capacity(layers.len());
        for layer in layers {
            let extent = (layer.offset_bytes, layer.length_bytes);
            let path = match self.mounted.get(&extent) {
                Some(path) => path.clone(),
                None => self.mount_next(&disk, &device, extent)?,
            };
            paths.push(path);
        }
        Ok(paths)
    }

    fn mount_next(&mut self, disk: &Disk, device: &File, extent: (u64, u64)) -> Result<PathBuf, RootfsError> {
        let number = u32::try_from(self.mounted.len()).unwrap_or(u32::MAX).saturating_add(1);
        if number > MAX_PARTITIONS {
            return Err(RootfsError::TooManyLayers);
        }
        let partition = disk.partition(number);
        add_partition(device.as_fd(), number, extent.0, extent.1).map_err(io("add partition", &partition))?;
        let path = Path::new(DIRECTORY).join(number.to_string());
        // The mount's attribute isn't enough: the kernel opens the disk as the file system itself asks for.
        let read_only = [("ro".to_owned(), None)];
        let kind = kind_of(device, extent.0).map_err(io("read layer", &partition))?;
        let layer = new_filesystem(kind, Some(&partition), &read_only, libc::MOUNT_ATTR_RDONLY);
        let layer = layer.map_err(io("mount layer (is it a squashfs or an erofs?)", &partition))?;
        mount_at(layer.as_fd(), &path)?;
        self.mounted.insert(extent, path.clone());
        Ok(path)
    }
}
