//! The product's files, and the programs of others that it runs.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use supermachine_config::Paths;

use super::root::DEFAULT_PATH;
use super::{Finding, Root};

const SHIM: &str = "containerd-shim-supermachine-v2";
const SNAPSHOTTER: &str = "supermachine-snapshotter";
/// Programs that the snapshotter runs, and their Debian packages.
const TOOLS: [(&str, &str); 3] = [("tar2sqfs", "squashfs-tools-ng"), ("mkfs.ext4", "e2fsprogs"), ("tar", "tar")];

pub(super) fn check(paths: &Paths, root: &Root) -> Vec<Finding> {
    let bin = paths.vmm.parent().unwrap_or(Path::new("/"));
    let (shim, snapshotter) = (bin.join(SHIM), bin.join(SNAPSHOTTER));
    let mut findings = vec![
        executable(root, &[&paths.vmm, &shim, &snapshotter]),
        guest_kernel(root, &paths.kernel),
        initrd(root, &paths.initrd),
        tools(root),
    ];
    // Those that aren't there were named.
    let versions = [(shim, "-v"), (snapshotter, "--version")].into_iter().filter(|(path, _)| root.is_program(path));
    let versions: Vec<_> =
        versions.map(|(path, flag)| (path.display().to_string(), version(&root.at(&path), flag))).collect();
    findings.push(one_version(&versions));
    findings
}

fn executable(root: &Root, programs: &[&Path]) -> Finding {
    const CHECK: &str = "programs";
    let missing: Vec<_> = programs.iter().filter(|path| !root.is_program(path)).collect();
    if missing.is_empty() {
        return Finding::ok(CHECK, list(programs.iter()));
    }
    let found = format!("{} can't be executed", list(missing));
    Finding::problem(CHECK, found, "run `make install`, or set `paths.vmm` to where it was installed")
}

fn list<'a>(paths: impl IntoIterator<Item = &'a &'a Path>) -> String {
    paths.into_iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// What a program says to be: the last word of its first line.
pub(super) fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.split(' ').next_back()?.to_owned())
}

/// The VMM has no version to show: whether it and this program understand each other is found by asking it.
fn one_version(programs: &[(String, Option<String>)]) -> Finding {
    const CHECK: &str = "versions";
    let ours = env!("CARGO_PKG_VERSION");
    let others: Vec<_> = programs.iter().filter(|(_, version)| version.as_deref() != Some(ours)).collect();
    if others.is_empty() {
        return Finding::ok(CHECK, ours);
    }
    let say = |(path, version): &&(String, Option<String>)| match version {
        Some(version) => format!("{path} is {version}"),
        None => format!("{path} doesn't say its version"),
    };
    let found = format!("this program is {ours}, {}", others.iter().map(say).collect::<Vec<_>>().join(", "));
    Finding::problem(CHECK, found, "install all of one version: run `make install`")
}

fn guest_kernel(root: &Root, path: &Path) -> Finding {
    const CHECK: &str = "guest kernel";
    match beginning(root, path) {
        Ok(bytes) if bytes == *b"\x7fELF" => Finding::ok(CHECK, path.display().to_string()),
        Ok(_) => {
            let found = format!("{} is no kernel that can be booted: it isn't an ELF file", path.display());
            Finding::problem(CHECK, found, "run `make install`, or set `paths.kernel`")
        }
        Err(finding) => finding(CHECK, "paths.kernel"),
    }
}

fn initrd(root: &Root, path: &Path) -> Finding {
    const CHECK: &str = "initial ramdisk";
    match beginning(root, path) {
        Ok(_) => Finding::ok(CHECK, path.display().to_string()),
        Err(finding) => finding(CHECK, "paths.initrd"),
    }
}

/// The first bytes of a file, or what to say of one that hasn't got them.
fn beginning(root: &Root, path: &Path) -> Result<[u8; 4], impl FnOnce(&'static str, &str) -> Finding> {
    let mut bytes = [0; 4];
    let read = File::open(root.at(path)).and_then(|mut file| file.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(|error| {
        let found = format!("{} can't be read: {error}", path.display());
        move |check, key: &str| Finding::problem(check, found, format!("run `make install`, or set `{key}`"))
    })
}

fn tools(root: &Root) -> Finding {
    const CHECK: &str = "tools";
    let missing = TOOLS.iter().filter(|(tool, _)| root.program_in(DEFAULT_PATH, tool).is_none());
    let (missing, packages): (Vec<_>, Vec<_>) = missing.copied().unzip();
    if missing.is_empty() {
        return Finding::ok(CHECK, TOOLS.map(|(tool, _)| tool).join(", "));
    }
    let found = format!("{} can't be found: the snapshotter can't make layers or disks", missing.join(", "));
    Finding::problem(CHECK, found, format!("apt-get install {}", packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use supermachine_config::Config;

    use super::*;
    use crate::doctor::Status;
    use crate::doctor::root::fake;

    #[test]
    fn a_whole_product_of_one_version_is_fine() {
        let say = |text: &str| format!("#!/bin/sh\necho {text} {}\n", env!("CARGO_PKG_VERSION"));
        let (_directory, root) = fake(&[
            ("/opt/supermachine/bin/supermachine-vmm*", ""),
            ("/opt/supermachine/bin/containerd-shim-supermachine-v2*", &say("io.containerd.supermachine.v2")),
            ("/opt/supermachine/bin/supermachine-snapshotter*", &say("supermachine-snapshotter")),
            ("/opt/supermachine/share/vmlinux", "\x7fELF and more"),
            ("/opt/supermachine/share/initrd.cpio", "070701"),
            ("/usr/bin/tar2sqfs*", ""),
            ("/sbin/mkfs.ext4*", ""),
            ("/bin/tar*", ""),
        ]);
        let findings = check(&Config::defaults().unwrap().paths, &root);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:?}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let (_directory, root) = fake(&[
            ("/opt/supermachine/bin/supermachine-vmm", "not executable"),
            ("/opt/supermachine/bin/containerd-shim-supermachine-v2*", "#!/bin/sh\necho shim 0.0.1\n"),
            ("/opt/supermachine/share/vmlinux", "text"),
            ("/usr/bin/tar2sqfs*", ""),
        ]);
        let findings = check(&Config::defaults().unwrap().paths, &root);
        assert!(findings.iter().all(|finding| finding.status == Status::Problem), "{findings:?}");
        for (finding, part) in findings.iter().zip([
            "/opt/supermachine/bin/supermachine-vmm, /opt/supermachine/bin/supermachine-snapshotter can't be executed",
            "isn't an ELF file",
            "initrd.cpio can't be read: No such file",
            "mkfs.ext4, tar can't be found",
            "containerd-shim-supermachine-v2 is 0.0.1",
        ]) {
            assert!(finding.found.contains(part), "{finding:?}");
        }
        assert_eq!(findings[3].remedy.as_deref(), Some("apt-get install e2fsprogs tar"));
    }
}
