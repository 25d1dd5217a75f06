use std::fs;
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, Mode, StatVfsMountFlags, fstatvfs, mkfifoat, openat};
use rustix::process::geteuid;

use super::*;

fn volume(source: &Path) -> Volume {
    Volume { name: "v".into(), source: source.to_owned(), recursive: true, access: Access::Full, follows_host: false }
}

/// Whether a copy of a mount can be made, which takes root's rights.
fn may_mount() -> bool {
    let may = geteuid().is_root();
    if !may {
        eprintln!("not root: nothing can be shared");
    }
    may
}

#[test]
fn what_is_missing_or_has_no_meaning_elsewhere_is_named() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = Volumes::open(&[volume(dir.path()), volume(&missing)]).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot share {}; does it exist?", missing.display()));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let pipe = dir.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, expected) in
        [(pipe.as_path(), "a pipe"), (&socket, "a socket"), (Path::new("/dev/tty"), "a device of the host")]
    {
        let error = Volumes::open(&[volume(path)]).unwrap_err();
        assert!(matches!(error, VolumeError::Kind { kind, .. } if kind == expected), "{error}");
    }
    Volumes::open(&[volume(Path::new("/dev/null"))]).unwrap();
}

#[test]
fn a_volume_is_what_it_was_whatever_takes_its_place() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::create_dir(&source).unwrap();
    let volumes = Volumes::open(&[volume(&source)]).unwrap();
    fs::rename(&source, dir.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("/", &source).unwrap();
    fs::write(dir.path().join("moved/file"), "").unwrap();
    let flags = rustix::fs::OFlags::PATH;
    openat(&volumes.0[0].tree, "file", flags, Mode::empty()).unwrap();
    assert!(openat(&volumes.0[0].tree, "etc", flags, Mode::empty()).is_err());
}

#[test]
fn access_is_the_mounts() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let flags = |access| {
        let volumes = Volumes::open(&[Volume { access, ..volume(dir.path()) }]).unwrap();
        fstatvfs(&volumes.0[0].tree).unwrap().f_flag
    };
    let plain = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    for (access, is_read_only) in [(Access::Full, false), (Access::ReadOnly, true), (Access::ReadOnlyTree, true)] {
        let flags = flags(access);
        assert!(flags.contains(plain), "{flags:?}");
        assert_eq!(flags.contains(StatVfsMountFlags::RDONLY), is_read_only, "{access:?}");
    }
}
