//! containerd: there, of a version that we know, running, and finding the shim.

use std::path::{Path, PathBuf};

use super::root::DEFAULT_PATH;
use super::{Finding, Root};

/// Version 1.7 is the oldest that was tried.
const OLDEST: (u32, u32) = (1, 7);
const SOCKET: &str = "/run/containerd/containerd.sock";
const SHIM: &str = "containerd-shim-supermachine-v2";
/// What containerd puts before its PATH (its plugin `opt`).
const OPT: &str = "/opt/containerd/bin";

pub(super) fn check(root: &Root) -> Vec<Finding> {
    let program = root.program_in(DEFAULT_PATH, "containerd");
    let installed = installed(program.as_deref(), |program| version(&root.at(program)));
    vec![installed, socket(root), shim(root, program.as_deref())]
}

/// The version in `containerd github.com/containerd/containerd v2.1.4 REVISION`.
fn version(program: &Path) -> Option<String> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).split(' ').nth(2)?.trim().trim_start_matches('v').to_owned())
}

fn installed(program: Option<&Path>, version: impl Fn(&Path) -> Option<String>) -> Finding {
    const CHECK: &str = "containerd";
    let Some(program) = program else {
        return Finding::problem(CHECK, "it isn't installed", "apt-get install containerd");
    };
    let Some(version) = version(program) else {
        let found = format!("{} doesn't say its version", program.display());
        return Finding::warning(CHECK, found, "check that it is 1.7 or later");
    };
    let mut numbers = version.split(['.', '~', '-']).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Finding::ok(CHECK, version),
        _ => Finding::problem(CHECK, format!("its version {version} is too old"), "use containerd 1.7 or later"),
    }
}

fn socket(root: &Root) -> Finding {
    const CHECK: &str = "containerd's socket";
    if root.at(SOCKET).exists() {
        return Finding::ok(CHECK, SOCKET);
    }
    Finding::problem(CHECK, format!("there is no {SOCKET}"), "systemctl start containerd")
}

/// containerd looks for a shim in its own PATH, then beside its own program.
fn shim(root: &Root, containerd: Option<&Path>) -> Finding {
    const CHECK: &str = "shim";
    let (path, beside) = environment(root, containerd);
    let path = format!("{OPT}:{path}");
    let beside = beside.and_then(|program| Some(program.parent()?.join(SHIM))).filter(|path| root.is_program(path));
    match root.program_in(&path, SHIM).or(beside) {
        Some(found) => Finding::ok(CHECK, found.display().to_string()),
        None => Finding::problem(
            CHECK,
            format!("containerd doesn't find {SHIM} in {path}, nor beside itself"),
            format!("ln -s /opt/supermachine/bin/{SHIM} /usr/local/bin/"),
        ),
    }
}

/// PATH and program of the containerd that runs, or what they probably are.
fn environment(root: &Root, installed: Option<&Path>) -> (String, Option<PathBuf>) {
    let Some(pid) = root.processes("containerd").into_iter().min() else {
        return (DEFAULT_PATH.to_owned(), installed.map(Path::to_owned));
    };
    let variables = root.read(format!("/proc/{pid}/environ"));
    let path = variables.split('\0').find_map(|variable| variable.strip_prefix("PATH="));
    let program = std::fs::read_link(root.at(format!("/proc/{pid}/exe"))).ok();
    (path.unwrap_or(DEFAULT_PATH).to_owned(), program.or_else(|| installed.map(Path::to_owned)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;
    use crate::doctor::root::fake;

    #[test]
    fn versions_from_1_7_on_are_known() {
        let finding = |version: &str| installed(Some(Path::new("/c")), |_| Some(version.to_owned()));
        for version in ["1.7.24~ds1", "2.1.4", "2.2.0-rc.1"] {
            assert_eq!(finding(version), Finding::ok("containerd", version));
        }
        assert_eq!(finding("1.6.20").status, Status::Problem);
        assert_eq!(installed(Some(Path::new("/c")), |_| None).status, Status::Warning);
        assert_eq!(installed(None, |_| None).status, Status::Problem);
    }

    #[test]
    fn the_version_is_the_third_word() {
        let (_directory, root) = fake(&[("/bin/containerd*", "#!/bin/sh\necho containerd github.com/c v2.1.4 abc\n")]);
        assert_eq!(version(&root.at("/bin/containerd")).as_deref(), Some("2.1.4"));
    }

    #[test]
    fn the_shim_is_looked_for_where_containerd_does() {
        let (_directory, root) = fake(&[
            ("/proc/3/comm", "containerd\n"),
            ("/proc/3/environ", "HOME=/\0PATH=/usr/bin:/custom\0"),
            ("/custom/containerd-shim-supermachine-v2*", ""),
        ]);
        assert_eq!(shim(&root, None), Finding::ok("shim", "/custom/containerd-shim-supermachine-v2"));
        let (_directory, root) = fake(&[("/opt/containerd/bin/containerd-shim-supermachine-v2*", "")]);
        assert_eq!(shim(&root, None).status, Status::Ok);
        let (_directory, root) = fake(&[("/opt/bin/containerd-shim-supermachine-v2*", "")]);
        assert_eq!(shim(&root, Some(Path::new("/opt/bin/containerd"))).status, Status::Ok);
        assert_eq!(shim(&root, Some(Path::new("/usr/bin/containerd"))).status, Status::Problem);
        assert_eq!(socket(&root).status, Status::Problem);
    }
}
