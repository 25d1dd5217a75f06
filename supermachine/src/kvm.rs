//! `/dev/kvm`.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Where KVM is.
pub(crate) const KVM: &str = "/dev/kvm";

/// This host offers no usable KVM.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no such device.
    #[error(
        "this host has no {}; load the module (`modprobe kvm_intel` or `modprobe kvm_amd`) and enable virtualisation \
         in the firmware; if the host is itself a virtual machine, enable nested virtualisation for it",
        path.display()
    )]
    Missing {
        /// The device's path.
        path: PathBuf,
    },
    /// It may not be opened.
    #[error("{} may not be opened by this user; run as root, or let the service in (`usermod -aG kvm USER`)", path.display())]
    NotAllowed {
        /// The device's path.
        path: PathBuf,
    },
    /// The node exists without a driver behind it, or opening failed otherwise.
    #[error(
        "{} can't be opened; check that a KVM module is loaded (`lsmod | grep kvm`) and that the processor has \
         virtualisation enabled (`dmesg | grep -i kvm`)",
        path.display()
    )]
    Unusable {
        /// The device's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It opens and then lacks what is needed.
    #[error(
        "KVM on this host can't run our guests: {message}; see `dmesg | grep -i kvm`, a newer host kernel may help"
    )]
    Lacking {
        /// What the VMM says.
        message: String,
    },
}

pub(crate) fn open(path: &Path) -> Result<File, KvmError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|source| {
        let path = path.to_owned();
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT) => KvmError::Missing { path },
            Some(Errno::ACCESS | Errno::PERM) => KvmError::NotAllowed { path },
            _ => KvmError::Unusable { path, source },
        }
    })
}

/// Whether this host has a KVM that opens. Whether it can run our guests is known once [`crate::Machine::facts`] are.
pub fn check_kvm() -> Result<(), KvmError> {
    open(Path::new(KVM)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_says_what_to_load() {
        let error = open(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(error, KvmError::Missing { .. }));
        assert!(error.to_string().contains("modprobe kvm_amd"), "{error}");
    }

    #[test]
    fn a_node_without_a_driver_is_unusable() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(open(directory.path()).unwrap_err(), KvmError::Unusable { .. }));
    }
}
