//! What virtual machines are made of on this host.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bake::{Key, LayerDigests, MachineFacts, Store};
use supermachine_config::{Config, Paths};
use vmm_api::{MEMORY_BLOCK_BYTES, Shape};

use crate::error::ErrorKind;
use crate::facts;
use crate::kvm::{self, KvmError};
use crate::upper::UpperError;

/// Kernel, agent, VMM, shape and bake store: everything that starts on one host have in common.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) vmm: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) kvm: Arc<File>,
    pub(crate) kvm_path: PathBuf,
    pub(crate) shape: Shape,
    pub(crate) cmdline: String,
    pub(crate) store: Store,
    pub(crate) run: PathBuf,
    /// What a container's writable disk is at first.
    pub(crate) upper_template: PathBuf,
    pub(crate) is_baking: bool,
    /// How much of the disk bakes may take, in bytes.
    pub(crate) quota_bytes: u64,
    /// Whether what is learnt of the machine is written down.
    pub(crate) is_remembering: bool,
    pub(crate) answer_within: Duration,
}

/// This host can't run virtual machines as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No usable KVM.
    #[error("no usable KVM")]
    Kvm(#[source] KvmError),
    /// A file of the product is missing.
    #[error("the {role} {} can't be read; run `make install`, or set `{key}` in {}", path.display(), config.display())]
    MissingFile {
        /// What it is.
        role: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// The configuration key that says so.
        key: &'static str,
        /// The configuration file.
        config: PathBuf,
        /// Why it can't be read.
        #[source]
        source: io::Error,
    },
    /// A file vanished or can't be read while its digest was computed.
    #[error("the key of a bake can't be computed")]
    Digest(#[source] bake::DigestError),
    /// What writable layers are made of isn't there.
    #[error(transparent)]
    Upper(UpperError),
    /// The VMM didn't say what this machine is.
    #[error("the VMM can't describe this machine")]
    Describe(#[source] facts::DescribeError),
}

impl MachineError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Kvm(_) | Self::MissingFile { .. } | Self::Digest(_) | Self::Upper(_) => ErrorKind::FailedPrecondition,
            Self::Describe(error) => error.kind(),
        }
    }
}

impl Machine {
    /// The machine that a configuration describes. Checks that its files are there and that KVM opens; reads none of
    /// them.
    pub fn load(config: &Config) -> Result<Self, MachineError> {
        Self::load_with_kvm(config, Path::new(kvm::KVM))
    }

    pub(crate) fn load_with_kvm(config: &Config, kvm_path: &Path) -> Result<Self, MachineError> {
        let Paths { vmm, kernel, initrd, bakes, run, .. } = &config.paths;
        for (role, path, key) in [
            ("virtual machine monitor", vmm, "paths.vmm"),
            ("guest kernel", kernel, "paths.kernel"),
            ("initial ramdisk", initrd, "paths.initrd"),
        ] {
            // Opening, not stat: a directory or a file that may not be read is as good as none.
            File::open(path).map_err(|source| MachineError::MissingFile {
                role,
                path: path.clone(),
                key,
                config: config.file.clone(),
                source,
            })?;
        }
        Ok(Self {
            vmm: vmm.clone(),
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            kvm: Arc::new(kvm::open(kvm_path).map_err(MachineError::Kvm)?),
            kvm_path: kvm_path.to_owned(),
            shape: shape(config.vm.memory.0, config.vm.vcpus),
            cmdline: config.vm.cmdline.clone(),
            store: Store::new(bakes.clone(), run),
            run: run.clone(),
            upper_template: config.paths.upper_template(),
            is_baking: config.bake.enabled,
            quota_bytes: config.bake.quota.0,
            is_remembering: true,
            answer_within: config.vm.answer_within,
        })
    }

    /// The same, for whoever only looks: what is learnt of it is not written down.
    #[must_use]
    pub fn forgetful(self) -> Self {
        Self { is_remembering: false, ..self }
    }

    /// Size of a writable disk that a container finds fresh.
    pub(crate) fn fresh_disk_bytes(&self) -> Result<u64, UpperError> {
        let template = std::fs::metadata(&self.upper_template);
        let missing = |source| UpperError::Template { path: self.upper_template.clone(), source };
        Ok(template.map_err(missing)?.len())
    }

    /// Guest memory and CPUs.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The bake store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is known of the digests of layers.
    pub fn layer_digests(&self) -> LayerDigests {
        LayerDigests::new(self.run.join("layers"))
    }

    /// Whether the configuration lets bakes be made and used.
    pub fn is_baking(&self) -> bool {
        self.is_baking
    }

    /// Everything a bake for this machine depends on. Remembered in the run directory: a few `stat` calls when
    /// nothing has changed, else files are read and the VMM is asked.
    pub async fn facts(&self) -> Result<MachineFacts, MachineError> {
        facts::gather(self).await
    }

    /// The key under which this machine's bake is stored.
    pub async fn key(&self) -> Result<Key, MachineError> {
        Ok(self.facts().await?.key())
    }
}

/// Guest memory that bakes are made with, in bytes. More is added to a machine when it is restored, so that one bake is
/// good for all that are larger; those that are smaller have their own.
const BAKED_BYTES: u64 = 256 << 20;

/// The machine with so much memory, or up to a block more.
fn shape(memory_bytes: u64, vcpus: u8) -> Shape {
    let baked_bytes = memory_bytes.min(BAKED_BYTES);
    let added_bytes = (memory_bytes - baked_bytes).next_multiple_of(MEMORY_BLOCK_BYTES);
    Shape { memory_bytes: baked_bytes, added_bytes, vcpus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_machines_have_what_is_baked_and_blocks() {
        for (mebibytes, baked, added) in
            [(64, 64, 0), (256, 256, 0), (258, 256, 128), (384, 256, 128), (2048, 256, 1792), (2050, 256, 1920)]
        {
            let Shape { memory_bytes, added_bytes, .. } = shape(mebibytes << 20, 1);
            assert_eq!((memory_bytes >> 20, added_bytes >> 20), (baked, added), "{mebibytes}");
        }
    }
}
