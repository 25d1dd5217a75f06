//! Files as block devices, for tests.
#![deny(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A block device with a file behind it. Dropping it takes the device away.
#[derive(Debug)]
pub struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Makes a file one, with these options of losetup(8). None where that can't be done: it takes root's rights.
    pub fn of(file: &Path, options: &[&str]) -> Option<Self> {
        let attach = Command::new("losetup").args(["--find", "--show"]).args(options).arg(file).output();
        let attached = attach.ok().filter(|output| output.status.success())?;
        Some(Self(String::from_utf8(attached.stdout).ok()?.trim().into()))
    }

    /// Its device node.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // Not a failure of what is tested, and a panic here would hide the one that is under way.
        if let Err(error) = Command::new("losetup").arg("--detach").arg(&self.0).status() {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
