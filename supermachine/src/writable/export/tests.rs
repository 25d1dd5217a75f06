//! Archives that are good, cut, endless and silent.

use std::process::Command;

use super::*;
use crate::chain;

const WIDE: Bounds = Bounds { limit: 1 << 30, within: Duration::from_secs(30) };

/// An archive of a directory.
fn archive(from: &Path) -> Vec<u8> {
    let output = Command::new("tar").arg("-c").arg("-C").arg(from).arg(".").output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn folder_with_file() -> tempfile::TempDir {
    let from = tempfile::tempdir().unwrap();
    std::fs::write(from.path().join("file"), vec![7; 100_000]).unwrap();
    from
}

#[tokio::test]
async fn an_archive_becomes_files_and_none_becomes_nothing() {
    let (from, to) = (folder_with_file(), tempfile::tempdir().unwrap());
    let target = to.path().join("export");
    receive(&archive(from.path())[..], &target, WIDE).await.unwrap();
    assert_eq!(std::fs::read(target.join("file")).unwrap(), vec![7; 100_000]);
    let none = to.path().join("none");
    receive(tokio::io::empty(), &none, WIDE).await.unwrap();
    assert!(!none.exists());
    let error = receive(&archive(from.path())[..], &target, WIDE).await.unwrap_err();
    assert!(matches!(error, ExportError::Directory { path, .. } if path == target), "never into what is there");
}

#[tokio::test]
async fn what_is_no_archive_is_told_in_the_words_of_tar() {
    let to = tempfile::tempdir().unwrap();
    let error = receive(&[b'x'; 100_000][..], &to.path().join("export"), WIDE).await.unwrap_err();
    assert!(matches!(error, ExportError::Unpack { .. }));
    assert!(chain(&error).contains("does not look like a tar archive"), "{}", chain(&error));
    let (from, target) = (folder_with_file(), to.path().join("cut"));
    let cut = &archive(from.path())[..50_000];
    assert!(matches!(receive(cut, &target, WIDE).await, Err(ExportError::Unpack { .. })));
}

#[tokio::test]
async fn a_guest_sends_no_more_than_it_may_and_is_not_waited_for() {
    let to = tempfile::tempdir().unwrap();
    let from = tempfile::tempdir().unwrap();
    std::fs::File::create(from.path().join("large")).unwrap().set_len(20 << 20).unwrap();
    let narrow = Bounds { limit: 10 << 20, ..WIDE };
    let error = receive(&archive(from.path())[..], &to.path().join("large"), narrow).await.unwrap_err();
    assert!(matches!(error, ExportError::TooLong { limit: 10_485_760 }));
    drop(Target(Some(to.path().join("large"))));
    assert!(!to.path().join("large").exists());
    let (_silent, stream) = tokio::io::duplex(64);
    let impatient = Bounds { within: Duration::from_millis(20), ..WIDE };
    let error = receive(stream, &to.path().join("silent"), impatient).await.unwrap_err();
    assert!(matches!(error, ExportError::Stalled { .. }));
}

#[tokio::test]
async fn names_do_not_lead_outside() {
    let dir = tempfile::tempdir().unwrap();
    let evil = dir.path().join("evil");
    std::fs::create_dir_all(evil.join("down")).unwrap();
    std::os::unix::fs::symlink("../..", evil.join("link")).unwrap();
    std::fs::write(evil.join("victim"), "x").unwrap();
    let mut tar = Command::new("tar");
    // A link that leads outside, then a file through it; a name with dots; an absolute one.
    tar.args(["-c", "-P", "--transform=s,victim,link/planted,", "-C"]).arg(&evil).args([
        ".",
        "victim",
        "../evil/victim",
    ]);
    let output = tar.arg(evil.join("victim")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let target = dir.path().join("a/b/export");
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    // It may refuse or put everything inside.
    let _either = receive(&output.stdout[..], &target, WIDE).await;
    for outside in [dir.path().join("a/planted"), dir.path().join("planted"), dir.path().join("a/b/planted")] {
        assert!(!outside.exists(), "{}", outside.display());
    }
}

#[test]
fn what_is_not_kept_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("export");
    let make = || std::fs::create_dir_all(path.join("below")).unwrap();
    make();
    drop(Target(Some(path.clone())));
    assert!(!path.exists());
    drop(Target(Some(path.clone())));
    make();
    Target(Some(path.clone())).keep();
    assert!(path.exists());
}
