//! Against the kernel, as root.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use rustix::process::geteuid;
use tempfile::TempDir;

use super::tree::MAX_DIRECTORIES;
use super::*;
use crate::volumes::{Access, Volume};

/// None where it isn't allowed.
async fn follower(source: &Path, vmm: i32) -> Option<Follower> {
    if !geteuid().is_root() {
        eprintln!("not root: volumes can't be watched");
        return None;
    }
    let volume = Volume {
        name: "volume".to_owned(),
        source: source.to_owned(),
        recursive: true,
        access: Access::Full,
        follows_host: false,
    };
    let volumes = Volumes::open(&[volume]).unwrap().watchable().unwrap();
    Some(Follower::start(volumes, vmm).await.unwrap())
}

async fn told(follower: &mut Follower) -> Vec<(Kind, PathBuf, bool)> {
    let changes = follower.next().await.unwrap();
    let path = |change: &Change| PathBuf::from(std::ffi::OsStr::from_bytes(&change.path));
    changes.iter().map(|change| (change.kind.enum_value_or_default(), path(change), change.is_directory)).collect()
}

fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), "old").unwrap();
    dir
}

#[tokio::test]
async fn what_is_done_is_told_in_order() {
    let dir = tree();
    let Some(mut follower) = follower(dir.path(), 0).await else { return };
    let at = |path: &str| dir.path().join(path);
    let mut file = OpenOptions::new().append(true).open(at("a/b/file")).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(told(&mut follower).await, [(Kind::WRITTEN, "a/b/file".into(), false)]);
    drop(file);
    assert_eq!(told(&mut follower).await, [(Kind::CLOSED, "a/b/file".into(), false)]);
    symlink("b", at("a/link")).unwrap();
    assert_eq!(told(&mut follower).await, [(Kind::CREATED, "a/link".into(), false)]);
    fs::rename(at("a/link"), at("a/moved")).unwrap();
    let moved = [(Kind::DELETED, "a/link".into(), false), (Kind::CREATED, "a/moved".into(), false)];
    assert_eq!(told(&mut follower).await, moved);
    fs::remove_file(at("a/moved")).unwrap();
    assert_eq!(told(&mut follower).await, [(Kind::DELETED, "a/moved".into(), false)]);
    // In one breath: it is gone when the kernel is asked.
    fs::write(at("short"), "lived").unwrap();
    fs::remove_file(at("short")).unwrap();
    let short = told(&mut follower).await;
    assert_eq!(short.first(), Some(&(Kind::CREATED, "short".into(), false)));
    assert_eq!(short.last(), Some(&(Kind::DELETED, "short".into(), false)));
}

#[tokio::test]
async fn directories_are_watched_wherever_they_move() {
    let dir = tree();
    let Some(mut follower) = follower(dir.path(), 0).await else { return };
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("c/d")).unwrap();
    fs::write(at("c/d/file"), "").unwrap();
    let made = told(&mut follower).await;
    for expected in [("c", true), ("c/d", true), ("c/d/file", false)] {
        assert!(made.contains(&(Kind::CREATED, expected.0.into(), expected.1)), "{made:?}");
    }
    fs::rename(at("a"), at("c/d/a")).unwrap();
    let moved = told(&mut follower).await;
    assert!(moved.contains(&(Kind::CREATED, "c/d/a".into(), true)), "{moved:?}");
    fs::write(at("c/d/a/b/file"), "newer").unwrap();
    let written = told(&mut follower).await;
    assert!(written.contains(&(Kind::WRITTEN, "c/d/a/b/file".into(), false)), "{written:?}");
    fs::remove_dir_all(at("c")).unwrap();
    assert_eq!(told(&mut follower).await.last(), Some(&(Kind::DELETED, "c".into(), true)));
}

#[tokio::test]
async fn what_the_guest_does_is_not_told() {
    let dir = tree();
    let own = std::process::id().cast_signed();
    let Some(mut follower) = follower(dir.path(), own).await else { return };
    fs::write(dir.path().join("mine"), "").unwrap();
    assert_eq!(told(&mut follower).await, []);
}

#[tokio::test]
async fn a_file_is_watched_by_itself() {
    let dir = tree();
    let file = dir.path().join("a/b/file");
    let Some(mut follower) = follower(&file, 0).await else { return };
    fs::write(dir.path().join("a/b/other"), "").unwrap();
    fs::write(&file, "new").unwrap();
    let told = told(&mut follower).await;
    assert!(told.contains(&(Kind::WRITTEN, PathBuf::new(), false)), "{told:?}");
    assert!(told.iter().all(|(_, path, _)| path.as_os_str().is_empty()), "{told:?}");
}

#[test]
fn a_large_tree_is_not_watched() {
    let dir = tempfile::tempdir().unwrap();
    (0..=MAX_DIRECTORIES).for_each(|number| fs::create_dir(dir.path().join(number.to_string())).unwrap());
    if geteuid().is_root() {
        let group = Arc::new(Group::new().unwrap());
        let tree = |path: &Path| Tree::watch(&group, "volume".to_owned(), File::open(path).unwrap().into());
        assert!(matches!(tree(dir.path()), Err((_, WatchError::TooLarge))));
        // Nothing of it is watched: there is no event to be read.
        fs::write(dir.path().join("7/file"), "").unwrap();
        assert_eq!(rustix::io::read(group.events().unwrap(), &mut [0; 4096]), Err(rustix::io::Errno::AGAIN));
        tree(&dir.path().join("7")).unwrap();
    }
}
