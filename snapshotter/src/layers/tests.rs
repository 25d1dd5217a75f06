use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use super::convert::convert;
use super::stream::{LeftOut, write_tree};
use super::*;

/// Capabilities of version 2: `cap_net_raw` permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn set(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn node(path: &Path, kind: FileType, device: (u32, u32)) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), makedev(device.0, device.1)).unwrap();
}

/// Seconds since 1970, with a fraction that squashfs can't keep.
fn set_time(path: &Path, seconds: i64) {
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Everything a layer can hold. Made in the given order of names, which must not matter.
fn corpus(root: &Path, reverse: bool) {
    let mut names = vec!["a", "b", "zebra", "é", "new\nline", "sp ace"];
    if reverse {
        names.reverse();
    }
    for name in names {
        fs::write(root.join(name), name.repeat(1000)).unwrap();
    }
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::write(at("usr/bin/ping"), vec![7; 300_000]).unwrap();
    set(&at("usr/bin/ping"), "security.capability", &CAPABILITY);
    chown(at("b"), Some(4_000_000_000), Some(70_000)).unwrap();
    fs::set_permissions(at("usr/bin/ping"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(at("usr/bin/ping"), at("usr/bin/ping6")).unwrap();
    fs::hard_link(at("usr/bin/ping"), at("again")).unwrap();
    symlink("/etc/../b", at("link")).unwrap();
    symlink("t/".repeat(90), at("long-link")).unwrap();
    let deep = format!("{}/{}", "d".repeat(120), "e".repeat(200));
    fs::create_dir_all(at(&deep)).unwrap();
    fs::write(at(&deep).join("f".repeat(255)), "deep").unwrap();
    fs::create_dir(at("opaque")).unwrap();
    set(&at("opaque"), "trusted.overlay.opaque", b"y");
    set(&at("opaque"), "trusted.overlay.origin", b"a handle of this run");
    set(&at("a"), "user.big", &[b'x'; 3000]);
    node(&at("deleted"), FileType::CharacterDevice, (0, 0));
    node(&at("null"), FileType::CharacterDevice, (1, 3));
    node(&at("disk"), FileType::BlockDevice, (259, 70_000));
    node(&at("pipe"), FileType::Fifo, (0, 0));
    node(&at("socket"), FileType::Socket, (0, 0));
    fs::File::create(at("sparse")).unwrap().set_len(5 << 20).unwrap();
    fs::set_permissions(root, fs::Permissions::from_mode(0o1755)).unwrap();
    chown(root, Some(5), Some(6)).unwrap();
    for (name, _) in listing(root) {
        set_time(&root.join(name), 1_600_000_000);
    }
    set_time(&at("zebra"), 4_000_000_000);
    set_time(&at("pipe"), -5);
}

/// What is known of each file, by its path.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let data = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let content = match data.file_type() {
            kind if kind.is_file() => format!("{:x?}", sum(&path)),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            _ => String::new(),
        };
        let attributes = attributes::read(&path).unwrap().kept;
        let next = inodes.len();
        let inode = *inodes.entry(data.ino()).or_insert(next);
        let shared = if data.is_dir() { 0 } else { data.nlink() };
        let first = if shared > 1 { inode.to_string() } else { String::new() };
        found.insert(
            name,
            format!(
                "{:o} {}:{} {} {shared} {first} {} {content} {attributes:?}",
                data.mode(),
                data.uid(),
                data.gid(),
                data.rdev(),
                data.mtime().max(0)
            ),
        );
        if data.is_dir() {
            let mut children: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            pending.extend(children);
        }
    }
    found
}

fn sum(path: &Path) -> (usize, u64) {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    (bytes.len(), bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte))))
}

fn tool(program: &str, arguments: &[&str], path: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_layer_is_the_directory_whatever_the_order_and_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut layers = Vec::new();
    for (name, reverse) in [("first", false), ("second", true)] {
        let files = folder.path().join(name);
        fs::create_dir(&files).unwrap();
        corpus(&files, reverse);
        let layer = folder.path().join(format!("{name}.squashfs"));
        let left_out = convert(&files, &layer, false, &Progress::new()).unwrap();
        assert_eq!(left_out, LeftOut { attributes: 0, sockets: 1 });
        assert_eq!(fs::metadata(&layer).unwrap().len() % 4096, 0);
        assert_eq!(fs::metadata(&layer).unwrap().permissions().mode() & 0o7777, 0o444);
        layers.push(layer);
    }
    assert!(fs::read(&layers[0]).unwrap() == fs::read(&layers[1]).unwrap(), "two conversions differ");

    // Read by the converter's counterpart: unsquashfs refuses tables of a few bytes that LZ4 makes longer, which the
    // kernel reads. That it does, the scenario `image-layers` shows.
    let unpacked = folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    let mut reader = Command::new("sqfs2tar");
    let mut read = reader.args(["--root-becomes", "."]).arg(&layers[0]).stdout(Stdio::piped()).spawn().unwrap();
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"]);
    let status = unpack.arg("--directory").arg(&unpacked).stdin(read.stdout.take().unwrap()).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(read.wait().unwrap().success());
    let mut expected = listing(&folder.path().join("first"));
    expected.remove("socket");
    let found = listing(&unpacked);
    for (name, line) in &expected {
        assert_eq!(found.get(name), Some(line), "{name}");
    }
    assert_eq!(found.len(), expected.len());
    assert!(tool("rdsquashfs", &["--describe"], &layers[0]).contains("nod deleted 0600 0 0 c 0 0"));
}

#[test]
fn what_cannot_be_compressed_is_kept_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("fs");
    fs::create_dir(&files).unwrap();
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    };
    let noise: Vec<u8> = (0..300_000).map(|_| next()).collect();
    fs::write(files.join("noise"), &noise).unwrap();
    let layer = folder.path().join("layer.squashfs");
    convert(&files, &layer, true, &Progress::new()).unwrap();
    assert!(fs::metadata(&layer).unwrap().len() < 310_000);
    let read = Command::new("rdsquashfs").args(["--cat", "noise"]).arg(&layer).output().unwrap();
    assert!(read.stdout == noise, "{} bytes read", read.stdout.len());
}

#[test]
fn an_empty_directory_converts_too() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("fs");
    fs::create_dir(&files).unwrap();
    let layer = folder.path().join("layer.squashfs");
    convert(&files, &layer, true, &Progress::new()).unwrap();
    assert!(tool("unsquashfs", &["-s"], &layer).contains("Number of inodes 1"));
}

#[test]
fn acls_are_counted_as_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    // One entry more than the mode bits say: user 1 may read.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, bits, id) in [(1_u16, 6_u16, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(bits.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    set(&file, "system.posix_acl_access", &acl);
    let left_out = write_tree(folder.path(), std::io::sink()).unwrap();
    assert_eq!(left_out, LeftOut { attributes: 1, sockets: 0 });
}

#[test]
fn a_cancelled_or_failed_conversion_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("fs");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("file"), vec![1; 1 << 20]).unwrap();
    let layer = folder.path().join("layer.squashfs");
    let progress = Progress::new();
    progress.cancel();
    assert!(matches!(convert(&files, &layer, false, &progress), Err(ConvertError::Cancelled)));
    let missing = convert(&folder.path().join("none"), &layer, false, &Progress::new());
    assert!(matches!(missing, Err(ConvertError::Stream(_))), "{missing:?}");
    let unwritable = folder.path().join("none/layer.squashfs");
    let failure = convert(&files, &unwritable, false, &Progress::new()).unwrap_err();
    assert!(matches!(failure, ConvertError::Failed { .. }), "{failure:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn committed(directory: &Directory, id: u64, bytes: usize) -> Id {
    directory.make(Id(id), false, None).unwrap();
    // Not compressible, so that it takes a while.
    let noise: Vec<u8> = (0..bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    fs::write(directory.files(Id(id)).join("noise"), noise).unwrap();
    Id(id)
}

#[tokio::test]
async fn who_waits_comes_first_and_a_layer_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(&folder.path().join("root")).unwrap());
    let (layers, workers) = Layers::start(Arc::clone(&directory)).unwrap();
    // The one that is awaited is made in a fraction of the time that the others take.
    let size = |id| if id == 6 { 1 << 10 } else { 16 << 20 };
    let ids: Vec<Id> = (1..=6).map(|id| committed(&directory, id, size(id))).collect();
    for id in &ids {
        layers.convert_later(*id);
    }
    let last = ids[5];
    let (one, two) = tokio::join!(layers.convert_now(last), layers.convert_now(last));
    assert_eq!(one.unwrap(), two.unwrap());
    let made = fs::metadata(directory.layer(last)).unwrap();
    let earlier = ids[..5].iter().filter(|id| directory.layer(**id).exists()).count();
    assert!(earlier < 5, "the awaited layer was made last");
    for id in &ids {
        layers.convert_now(*id).await.unwrap();
        assert!(directory.layer(*id).exists());
    }
    assert_eq!(fs::metadata(directory.layer(last)).unwrap().ino(), made.ino());
    layers.close();
    workers.join();
}

#[tokio::test]
async fn a_removed_snapshot_ends_its_conversion() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(&folder.path().join("root")).unwrap());
    let (layers, workers) = Layers::start(Arc::clone(&directory)).unwrap();
    let id = committed(&directory, 1, 64 << 20);
    let waiting = layers.demand(id).unwrap();
    layers.forget(id);
    directory.discard(id).unwrap();
    // Either dropped from the queue or cancelled while running.
    if let Ok(outcome) = waiting.await {
        assert!(outcome.is_err());
    }
    layers.close();
    assert!(matches!(*layers.convert_now(id).await.unwrap_err(), ConvertError::Cancelled));
    workers.join();
}
