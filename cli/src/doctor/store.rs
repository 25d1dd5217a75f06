//! The bake store, and room on the disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::process::geteuid;
use supermachine_config::Paths;

use super::Finding;
use crate::quantities::bytes;

/// Permission bits that let group or others write.
const FOREIGN_WRITE: u32 = 0o022;
/// Less than that, and a bake or a container's layer may not fit.
const ENOUGH_BYTES: u64 = 4 << 30;
/// Less than that, and hardly anything does.
const LEAST_BYTES: u64 = 512 << 20;

pub(super) fn check(paths: &Paths) -> Vec<Finding> {
    let mut findings = vec![bake_store(&paths.bakes)];
    findings.push(room("room for bakes", &paths.bakes));
    findings.push(room("room for layers", &paths.snapshotter));
    findings
}

/// What is restored is executed: only this user may have written it.
fn bake_store(path: &Path) -> Finding {
    const CHECK: &str = "bake store";
    let shown = path.display();
    let there = existing(path);
    if access(there, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let found = format!("{} can't be written", there.display());
        return Finding::problem(
            CHECK,
            found,
            "run as root, check that its disk isn't mounted read-only, or set `paths.bakes`",
        );
    }
    if there != path {
        return Finding::ok(CHECK, format!("{shown}, which the first bake makes"));
    }
    let us = geteuid().as_raw();
    match fs::metadata(path) {
        Err(error) => Finding::problem(CHECK, format!("{shown}: {error}"), "check its permissions"),
        Ok(metadata) if !metadata.is_dir() => Finding::problem(CHECK, format!("{shown} is no directory"), "remove it"),
        Ok(metadata) if metadata.uid() != us => {
            let found = format!("{shown} belongs to user {}, not to {us}", metadata.uid());
            Finding::problem(CHECK, found, format!("chown {us} {shown}"))
        }
        Ok(metadata) if metadata.mode() & FOREIGN_WRITE != 0 => {
            Finding::problem(CHECK, format!("{shown} can be written by others"), format!("chmod go-w {shown}"))
        }
        Ok(_) => Finding::ok(CHECK, shown.to_string()),
    }
}

fn room(check: &'static str, path: &Path) -> Finding {
    let there = existing(path);
    match statvfs(there) {
        Ok(disk) => judge_room(check, there, disk.f_bavail.saturating_mul(disk.f_frsize)),
        Err(error) => Finding::warning(check, format!("{}: {error}", there.display()), "check the disk"),
    }
}

fn judge_room(check: &'static str, path: &Path, free_bytes: u64) -> Finding {
    let found = format!("{} free in {}", bytes(free_bytes), path.display());
    let remedy = "free some: `supermachine df` tells what takes how much, `supermachine prune` removes bakes";
    match free_bytes {
        ENOUGH_BYTES.. => Finding::ok(check, found),
        LEAST_BYTES.. => Finding::warning(check, found, remedy),
        _ => Finding::problem(check, found, remedy),
    }
}

/// A path, or the nearest directory above it that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::doctor::Status;

    #[test]
    fn only_a_store_that_others_can_not_write_is_fine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/bakes");
        assert!(bake_store(&path).found.ends_with("which the first bake makes"));
        assert!(!path.exists());
        fs::create_dir_all(&path).unwrap();
        let status = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            bake_store(&path).status
        };
        assert_eq!([status(0o700), status(0o770), status(0o702)], [Status::Ok, Status::Problem, Status::Problem]);
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(bake_store(&path).found, format!("{} is no directory", path.display()));
    }

    #[test]
    fn little_room_is_a_warning_and_none_a_problem() {
        let status = |free| judge_room("room", Path::new("/"), free).status;
        assert_eq!([status(8 << 30), status(1 << 30), status(1 << 20)], [Status::Ok, Status::Warning, Status::Problem]);
        assert!(room("room", Path::new("/nonexistent/a")).found.ends_with("free in /"));
    }
}
