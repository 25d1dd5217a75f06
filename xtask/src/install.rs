//! Installs the product on a machine, or below a staging directory.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::paths;
use crate::product::{self, Profile};
use crate::step::step;

/// Builds the product and hands it to `deploy/install.sh`.
pub(crate) fn run(root: &Path) -> anyhow::Result<ExitCode> {
    let product = product::build(Profile::Release)?;
    let folder = tempfile::tempdir()?;
    step("installing", || {
        product.stage(folder.path(), folder.path())?;
        let mut install = Command::new(paths::checkout().join("deploy/install.sh"));
        install.arg("--bin").arg(folder.path());
        install.arg("--kernel").arg(folder.path().join("vmlinux"));
        install.arg("--initrd").arg(folder.path().join("initrd.cpio"));
        if root != Path::new("/") {
            install.arg("--staging").arg(root);
        }
        paths::run(&mut install)
    })?;
    Ok(ExitCode::SUCCESS)
}
