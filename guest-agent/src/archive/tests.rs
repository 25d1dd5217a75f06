//! Trees through our archives and through GNU tar's, compared in everything.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

use super::*;

/// Everything that one file is, and which others are the same.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    device: u64,
    target: Option<PathBuf>,
    content: Option<Vec<u8>>,
    attributes: Vec<(String, Vec<u8>)>,
    /// Name of the first file with this inode.
    first: PathBuf,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut facts = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            let mut children: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            pending.extend(children.into_iter().rev());
        }
        let mut attributes = attributes::read_path(&path).unwrap();
        attributes.sort();
        let mut first = inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        if metadata.rdev() == 0 && metadata.file_type().is_char_device() {
            // GNU tar makes a whiteout of its own of each; nobody can tell.
            first.clone_from(&name);
        }
        let one = Facts {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            device: metadata.rdev(),
            target: fs::read_link(&path).ok(),
            content: metadata.is_file().then(|| fs::read(&path).unwrap()),
            attributes,
            first,
        };
        facts.insert(name, one);
    }
    facts
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn mknod(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), makedev(major, minor)).unwrap();
}

/// A tree with everything that an overlay's upper directory can have in it.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let set = |path: &Path, name: &str, value: &[u8]| lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
    fs::create_dir(root.join("folder")).unwrap();
    let file = root.join("folder/file");
    fs::write(&file, "content").unwrap();
    lchown(&file, Some(3_000_000), Some(7)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o4751)).unwrap();
    // cap_net_raw=ep, version 2.
    set(&file, "security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    set(&file, "user.odd=%name", b"a\nvalue=\0\xff");
    fs::hard_link(&file, root.join("second name")).unwrap();
    symlink("../folder/file", root.join("folder/link")).unwrap();
    lchown(root.join("folder/link"), Some(5), Some(6)).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    fs::hard_link(root.join("absolute"), root.join("absolute too")).unwrap();
    mknod(&root.join("gone"), FileType::CharacterDevice, 0, 0);
    fs::hard_link(root.join("gone"), root.join("gone as well")).unwrap();
    mknod(&root.join("folder/disk"), FileType::BlockDevice, 259, 70_000);
    mknod(&root.join("pipe"), FileType::Fifo, 0, 0);
    fs::create_dir(root.join("opaque")).unwrap();
    set(&root.join("opaque"), "trusted.overlay.opaque", b"y");
    let long = root.join("n".repeat(120));
    fs::create_dir(&long).unwrap();
    symlink("t".repeat(300), long.join("l".repeat(200))).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"-odd \xff\n\\name")), "odd").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    for (name, size, data) in [
        ("hole", 50 << 20, vec![]),
        ("tail", 9 << 20, vec![3 << 20]),
        ("whole", 4 << 20, vec![0, 2 << 20, (4 << 20) - 4]),
    ] {
        let sparse = File::create(root.join(name)).unwrap();
        sparse.set_len(size).unwrap();
        data.into_iter().for_each(|offset| sparse.write_all_at(b"data", offset).unwrap());
    }
    set_time(&file, 1_700_000_000, 123_456_789);
    set_time(&root.join("absolute"), 5, 1);
    set_time(&root.join("empty"), -5, 250_000_000);
    set_time(&root.join("folder"), 77, 0);
    set_time(root, 99, 1);
    fs::set_permissions(root, Permissions::from_mode(0o1770)).unwrap();
    dir
}

fn archive(root: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_tree(root, &mut bytes).unwrap();
    bytes
}

/// GNU tar with options that both directions have in common.
fn gnu_tar(action: &str, root: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.arg(action).args(["--xattrs", "--xattrs-include=*", "--numeric-owner"]).arg("-C").arg(root);
    tar.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped());
    tar
}

fn assert_same(theirs: &Path, ours: &Path) {
    let (theirs, ours) = (look(theirs), look(ours));
    for (name, facts) in &theirs {
        assert_eq!(Some(facts), ours.get(name), "{}", name.display());
    }
    assert_eq!(theirs.len(), ours.len());
}

fn is_sparse(root: &Path) -> bool {
    ["hole", "tail", "whole"].iter().all(|name| fs::metadata(root.join(name)).unwrap().blocks() * 512 < 1 << 20)
}

/// Devices and trusted attributes are root's; a file system of its own may have neither.
fn is_able() -> bool {
    let able = rustix::process::geteuid().is_root();
    if !able {
        eprintln!("not root: no tree with devices can be made");
    }
    able
}

#[test]
fn gnu_tar_unpacks_what_is_written() {
    if !is_able() {
        return;
    }
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let mut tar = gnu_tar("-xp", to.path()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&archive(from.path())).unwrap();
    assert!(tar.wait().unwrap().success());
    assert_same(from.path(), to.path());
    assert!(is_sparse(to.path()));
}

#[test]
fn what_gnu_tar_writes_is_unpacked() {
    if !is_able() {
        return;
    }
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let mut command = gnu_tar("-c", from.path());
    let output = command.args(["--format=posix", "--sparse", "."]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    unpack(Cursor::new(output.stdout), to.path()).unwrap();
    assert_same(from.path(), to.path());
    assert!(is_sparse(to.path()));
}

#[test]
fn our_own_archives_are_unpacked_too() {
    if !is_able() {
        return;
    }
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    unpack(Cursor::new(archive(from.path())), to.path()).unwrap();
    assert_same(from.path(), to.path());
}

#[test]
fn notes_of_a_mount_and_sockets_are_left_out() {
    if !is_able() {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    lsetxattr(from.path(), "trusted.overlay.impure", b"y", XattrFlags::empty()).unwrap();
    let _listening = UnixListener::bind(from.path().join("socket")).unwrap();
    unpack(Cursor::new(archive(from.path())), to.path()).unwrap();
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
    assert_eq!(rustix::fs::llistxattr(to.path(), &mut [0; 64]).unwrap(), 0);
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("file"), vec![1; 3000]).unwrap();
    let bytes = archive(from.path());
    // The last two blocks say that nothing follows: with one of them it is whole.
    for length in [0, 100, 512, bytes.len() - 2000, bytes.len() - 1024] {
        let to = tempfile::tempdir().unwrap();
        let cut = Cursor::new(&bytes[..length]);
        assert!(matches!(unpack(cut, to.path()), Err(ArchiveError::Read(_))), "{length}");
    }
    let outside = |name: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(tar::EntryType::Directory);
        for set in [tar::Header::set_size, tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
            set(&mut header, 0);
        }
        header.set_mode(0o755);
        header.set_cksum();
        let to = tempfile::tempdir().unwrap();
        unpack(Cursor::new(header.as_bytes()), to.path())
    };
    for name in [&b"../x"[..], b"/x", b"a/../../x"] {
        assert!(matches!(outside(name), Err(ArchiveError::Damaged(_))));
    }
}

#[test]
fn files_that_change_meanwhile_do_not_break_the_archive() {
    let from = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let path = |number: usize| from.path().join(format!("file{}", number % 7));
    for number in 0..7 {
        fs::write(path(number), vec![b'x'; 100_000]).unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                match number % 5 {
                    0 => drop(fs::remove_file(path(number))),
                    1 => drop(fs::remove_file(path(number)).and_then(|()| symlink("/etc/passwd", path(number)))),
                    2 => drop(fs::remove_file(path(number)).and_then(|()| fs::create_dir(path(number)))),
                    3 => drop(fs::remove_dir(path(number))),
                    _ => drop(fs::write(path(number), vec![b'y'; number * 977 % 200_000])),
                }
            }
        });
        for _ in 0..200 {
            let to = tempfile::tempdir().unwrap();
            unpack(Cursor::new(archive(from.path())), to.path()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}
