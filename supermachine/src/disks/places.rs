//! What lies where on a VM's disks. Containers that share a VM share layers, and leave places for each other.

use agent_proto::{Layer, RootFilesystem};

use super::{Backing, DiskError, Opened};

/// Layers begin on multiples of this on the layer disk, images and devices on the upper disk, in bytes.
const ALIGNMENT: u64 = 4096;
/// Most layers of one VM: the kernel's partitions of a disk.
const MAX_LAYERS: usize = 255;
/// Most images and devices that a VM holds at a time: the same.
pub(crate) const MAX_PARTS: usize = 255;

/// What lies where. Layers stay for the VM's life, since the next container may be of the same image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places {
    /// With the file's device and inode: the VM has it open.
    layers: Vec<((u64, u64), Layer)>,
    /// In order.
    uppers: Vec<Place>,
}

/// Where an image or a device lies on the upper disk, or has lain.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: u64,
    bytes: u64,
    is_taken: bool,
}

impl Places {
    /// Finds places for a root file system's files, as the agent is to be told them. Of the files, those stay that the
    /// VM hasn't got, in the order in which it must get them.
    pub(crate) fn put(&mut self, files: &mut Opened) -> Result<RootFilesystem, DiskError> {
        let before = self.layers.len();
        let mut layers: Vec<Layer> = Vec::with_capacity(files.layers.len());
        let mut added = Vec::new();
        for backing in files.layers.drain(..) {
            let shared =
                self.layers.iter().take(before).find(|(id, layer)| *id == backing.id && !layers.contains(layer));
            if let Some((_, layer)) = shared {
                layers.push(layer.clone());
            } else {
                layers.push(self.add_layer(&backing));
                added.push(backing);
            }
        }
        if self.layers.len() > MAX_LAYERS {
            return Err(DiskError::Full { count: added.len() });
        }
        files.layers = added;
        let upper = files.upper.as_ref();
        Ok(RootFilesystem {
            layers,
            writable: upper.is_some(),
            upper_offset_bytes: upper.map_or(0, |upper| self.take_place(upper.bytes)),
            upper_bytes: upper.map_or(0, |upper| upper.bytes),
            upper_directory: files.directories.files.clone(),
            work_directory: files.directories.work.clone(),
            ..Default::default()
        })
    }

    fn add_layer(&mut self, backing: &Backing) -> Layer {
        let offset_bytes = self.layers.last().map_or(0, |(_, last)| last.offset_bytes + last.length_bytes);
        let length_bytes = backing.bytes.next_multiple_of(ALIGNMENT);
        let layer = Layer { offset_bytes, length_bytes, ..Default::default() };
        self.layers.push((backing.id, layer.clone()));
        layer
    }

    /// Finds a place for a device of this length, unless there are as many images and devices as there can be.
    pub(crate) fn put_device(&mut self, bytes: u64) -> Option<u64> {
        let taken = self.uppers.iter().filter(|place| place.is_taken).count();
        (taken < MAX_PARTS).then(|| self.take_place(bytes))
    }

    /// A place that is free and large enough, or the next one.
    fn take_place(&mut self, bytes: u64) -> u64 {
        if let Some(free) = self.uppers.iter_mut().find(|place| !place.is_taken && place.bytes >= bytes) {
            free.is_taken = true;
            return free.start;
        }
        let end = self.uppers.last().map_or(0, |last| last.start + last.bytes);
        let place = Place { start: end.next_multiple_of(ALIGNMENT), bytes, is_taken: true };
        self.uppers.push(place);
        place.start
    }

    /// An image or a device is gone from its place on the upper disk.
    pub(crate) fn leave(&mut self, start: u64) {
        for place in self.uppers.iter_mut().filter(|place| place.start == start) {
            place.is_taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::disks::RootDisks;

    fn file(dir: &Path, name: &str, bytes: usize) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, vec![1; bytes]).unwrap();
        path
    }

    fn open(layers: &[&PathBuf], upper: Option<PathBuf>) -> Opened {
        let layers = layers.iter().map(|layer| (*layer).clone()).collect();
        Opened::open(&RootDisks { layers, upper, ..RootDisks::default() }).unwrap()
    }

    fn extents(rootfs: &RootFilesystem) -> Vec<(u64, u64)> {
        rootfs.layers.iter().map(|layer| (layer.offset_bytes, layer.length_bytes)).collect()
    }

    #[test]
    fn layers_follow_each_other_on_page_boundaries_and_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = [("a", 4096), ("b", 5000), ("c", 100)].map(|(name, bytes)| file(dir.path(), name, bytes));
        let mut places = Places::default();
        let mut files = open(&[&a, &b, &b], Some(file(dir.path(), "upper", 1024)));
        let first = places.put(&mut files).unwrap();
        assert_eq!(extents(&first), [(0, 4096), (4096, 8192), (12288, 8192)], "the same layer twice is two");
        assert_eq!((first.writable, first.upper_offset_bytes, first.upper_bytes), (true, 0, 1024));
        assert_eq!(files.layers.len(), 3);
        let mut files = open(&[&c, &b], None);
        let second = places.put(&mut files).unwrap();
        assert_eq!((extents(&second), second.writable), (vec![(20480, 4096), (4096, 8192)], false));
        assert_eq!(files.layers.len(), 1, "the VM has the other");
        let mut files = open(&[&a, &c], None);
        places.put(&mut files).unwrap();
        assert!(files.is_empty());
    }

    #[test]
    fn a_place_that_was_left_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = Places::default();
        let put = |places: &mut Places, name: &str, bytes| {
            places.put(&mut open(&[], Some(file(dir.path(), name, bytes)))).unwrap().upper_offset_bytes
        };
        assert_eq!(
            [put(&mut places, "1", 5120), put(&mut places, "2", 512), put(&mut places, "3", 512)],
            [0, 8192, 12288]
        );
        places.leave(0);
        places.leave(8192);
        assert_eq!(
            [put(&mut places, "4", 1024), put(&mut places, "5", 1024), put(&mut places, "6", 512)],
            [0, 16384, 8192]
        );
    }

    #[test]
    fn a_vm_holds_as_many_devices_as_its_kernel_has_partitions() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = Places::default();
        places.put(&mut open(&[], Some(file(dir.path(), "upper", 512)))).unwrap();
        let starts: Vec<_> = std::iter::from_fn(|| places.put_device(8192)).collect();
        assert_eq!((starts.len(), starts[0], starts[253]), (254, 4096, 4096 + 253 * 8192));
        places.leave(4096);
        assert_eq!((places.put_device(512), places.put_device(512)), (Some(4096), None));
    }

    #[test]
    fn a_vm_holds_as_many_layers_as_its_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let mut places = Places::default();
        for turn in 0..2 {
            let layers: Vec<_> = (0..127).map(|n| file(dir.path(), &format!("{turn}-{n}"), 1)).collect();
            places.put(&mut open(&layers.iter().collect::<Vec<_>>(), None)).unwrap();
        }
        let more: Vec<_> = (0..2).map(|n| file(dir.path(), &format!("more-{n}"), 1)).collect();
        let tried = places.clone().put(&mut open(&more.iter().collect::<Vec<_>>(), None));
        assert!(matches!(tried, Err(DiskError::Full { count: 2 })));
        places.put(&mut open(&[&more[0]], None)).unwrap();
    }
}
