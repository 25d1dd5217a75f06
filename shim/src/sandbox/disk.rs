//! The disk that a container writes to: as its last VM left it, or a fresh one, into which goes what the host has.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use supermachine::{AskedAt, Import, RootDisks, Truth, UpperDirectories, Vm, VmNote, WritableLayer};
use tracing::warn;

use super::SandboxError;
use crate::bundle::Writable;

/// The disk of a VM that is about to start.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// Its file; none for a read-only root.
    file: Option<PathBuf>,
    directories: UpperDirectories,
    layer: Option<WritableLayer>,
    fresh: Option<FreshDisk>,
}

impl Disk {
    /// Makes it ready, from the template if it must be made. From here on a disk that there was is the only truth.
    pub(super) fn prepare(writable: Option<Writable>, template: &Path) -> Result<Self, SandboxError> {
        let layer = match writable {
            None => return Ok(Self::default()),
            Some(Writable::Image(file, directories)) => {
                return Ok(Self { file: Some(file), directories, ..Self::default() });
            }
            Some(Writable::Snapshot(layer)) => layer,
        };
        // Of a start that was cut off.
        remove(&layer.warm_disk());
        let (file, fresh) = if layer.is_untouched() {
            clone(template, &layer.disk())?;
            (layer.disk(), None)
        } else if layer.truth()? == Truth::Files {
            let fresh = FreshDisk::make(&layer, template)?;
            (layer.fresh_disk(), Some(fresh))
        } else {
            layer.give_to_disk()?;
            (layer.disk(), None)
        };
        Ok(Self { file: Some(file), layer: Some(layer), fresh, ..Self::default() })
    }

    /// The root file system that it makes with layers under it.
    pub(super) fn root(&self, layers: Vec<PathBuf>) -> RootDisks {
        RootDisks { layers, upper: self.file.clone(), upper_directories: self.directories.clone() }
    }

    /// Whether the host has written files that are to be in it.
    pub(super) fn has_files(&self) -> bool {
        self.fresh.is_some()
    }

    /// A VM has it. Notes who can be asked, which goes as soon as the VM is about to end.
    pub(super) fn taken(self, asked: &AskedAt) -> Result<(TakenDisk, Option<VmNote>), SandboxError> {
        let note = self.layer.as_ref().map(|layer| layer.note_vm(asked)).transpose()?;
        Ok((TakenDisk { fresh: self.fresh, import: None }, note))
    }
}

/// The disk of a running VM.
#[derive(Debug)]
pub(super) struct TakenDisk {
    fresh: Option<FreshDisk>,
    import: Option<Import>,
}

impl TakenDisk {
    /// Begins to send what a fresh disk is to hold; the token of the stream, 0 if there is nothing to send.
    pub(super) fn begin_import(&mut self, vm: &Vm) -> Result<u64, SandboxError> {
        let Some(fresh) = &self.fresh else { return Ok(0) };
        let import = vm.import(&fresh.layer.files())?;
        Ok(self.import.insert(import).token)
    }

    /// Waits until everything was sent; the guest has said that it has it. Then the fresh disk is the disk.
    pub(super) async fn settle(&mut self) -> Result<(), SandboxError> {
        if let Some(import) = self.import.take() {
            import.finished().await?;
        }
        if let Some(fresh) = &self.fresh {
            fresh.layer.give_to_fresh_disk()?;
        }
        if let Some(fresh) = self.fresh.take() {
            fresh.keep();
        }
        Ok(())
    }
}

/// A disk to be filled; removed unless it is kept.
#[derive(Debug)]
struct FreshDisk {
    layer: WritableLayer,
    is_kept: bool,
}

impl FreshDisk {
    fn make(layer: &WritableLayer, template: &Path) -> Result<Self, SandboxError> {
        let path = layer.fresh_disk();
        if layer.is_in_use()? {
            return Err(SandboxError::InUse { path });
        }
        // One that is there is of a start that was cut off.
        remove(&path);
        clone(template, &path)?;
        Ok(Self { layer: layer.clone(), is_kept: false })
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for FreshDisk {
    fn drop(&mut self) {
        if !self.is_kept {
            remove(&self.layer.fresh_disk());
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => warn!("{} is left behind: {error}", path.display()),
        _ => {}
    }
}

fn clone(template: &Path, path: &Path) -> Result<(), SandboxError> {
    let cloned = supermachine::clone_upper(template, path);
    cloned.map(drop).map_err(|source| SandboxError::Upper { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A snapshot's folder with a template beside it.
    fn folder() -> (tempfile::TempDir, WritableLayer, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let layer = WritableLayer::new(dir.path().join("1"));
        fs::create_dir_all(layer.files()).unwrap();
        let template = dir.path().join("template");
        fs::write(&template, "template").unwrap();
        (dir, layer, template)
    }

    fn prepare(layer: &WritableLayer, template: &Path) -> Disk {
        Disk::prepare(Some(Writable::Snapshot(layer.clone())), template).unwrap()
    }

    #[test]
    fn the_first_disk_is_made_and_stays() {
        let (_dir, layer, template) = folder();
        for content in ["template", "written"] {
            let disk = prepare(&layer, &template);
            assert_eq!(disk.file, Some(layer.disk()));
            assert_eq!(fs::read_to_string(layer.disk()).unwrap(), content);
            fs::write(layer.disk(), "written").unwrap();
        }
        layer.agree().unwrap();
        assert_eq!(prepare(&layer, &template).file, Some(layer.disk()));
        assert!(layer.is_ahead(), "the VM may write from here on");
    }

    #[tokio::test]
    async fn what_the_host_has_written_goes_to_a_fresh_disk() {
        let (_dir, layer, template) = folder();
        fs::write(layer.files().join("file"), "").unwrap();
        // Before a first start, and a change after a later one.
        for _ in 0..2 {
            drop(prepare(&layer, &template));
            assert!(!layer.fresh_disk().exists(), "a start that fails leaves nothing");
            fs::write(layer.fresh_disk(), "left by one that was killed").unwrap();
            let disk = prepare(&layer, &template);
            assert_eq!(disk.file, Some(layer.fresh_disk()));
            assert_eq!(layer.truth().unwrap(), Truth::Files);
            let asked = AskedAt { address: "unix:///s".into(), container: "c".into() };
            let (mut taken, note) = disk.taken(&asked).unwrap();
            assert_eq!(layer.vm(), Some(asked));
            taken.settle().await.unwrap();
            taken.settle().await.unwrap();
            drop((taken, note));
            assert_eq!((layer.truth().unwrap(), layer.vm()), (Truth::Disk, None));
            assert_eq!(fs::read_to_string(layer.disk()).unwrap(), "template");
            layer.agree().unwrap();
            fs::write(layer.files().join("file"), "changed").unwrap();
        }
    }

    #[test]
    fn without_a_writable_layer_there_is_no_disk_and_images_are_taken_as_they_are() {
        assert_eq!(Disk::prepare(None, Path::new("/nonexistent")).unwrap().file, None);
        let directories = UpperDirectories { files: "u".into(), work: "w".into() };
        let image = Writable::Image("/image".into(), directories.clone());
        let disk = Disk::prepare(Some(image), Path::new("/nonexistent")).unwrap();
        assert_eq!((disk.file, disk.directories), (Some("/image".into()), directories));
    }
}
