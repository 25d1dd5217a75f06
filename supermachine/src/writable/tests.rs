//! Which form counts, through the life of a layer.

use super::*;

fn layer() -> (tempfile::TempDir, WritableLayer) {
    let dir = tempfile::tempdir().unwrap();
    let layer = WritableLayer::new(dir.path().to_owned());
    fs::create_dir(layer.files()).unwrap();
    (dir, layer)
}

/// A layer with files that were exported: like an export's, their directory gets its name when all is in it.
fn agreed() -> (tempfile::TempDir, WritableLayer) {
    let (dir, layer) = layer();
    let made = dir.path().join("made");
    fs::create_dir_all(made.join("folder")).unwrap();
    fs::write(made.join("folder/file"), "exported").unwrap();
    fs::write(made.join("other"), "exported").unwrap();
    fs::remove_dir(layer.files()).unwrap();
    fs::rename(&made, layer.files()).unwrap();
    fs::write(layer.disk(), "disk").unwrap();
    layer.agree().unwrap();
    (dir, layer)
}

#[test]
fn files_count_until_there_is_a_disk_and_then_it_does() {
    let (_dir, layer) = layer();
    assert_eq!(layer.truth().unwrap(), Truth::Files);
    assert!(layer.is_untouched() && !layer.is_ahead());
    fs::write(layer.files().join("file"), "").unwrap();
    assert!(!layer.is_untouched() && !layer.is_ahead());
    fs::write(layer.disk(), "disk").unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Disk);
    assert!(layer.is_ahead());
    layer.agree().unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Both);
    assert!(!layer.is_ahead());
    layer.give_to_disk().unwrap();
    layer.give_to_disk().unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Disk);
}

#[test]
fn any_change_of_the_files_is_seen() {
    use std::os::unix::fs::PermissionsExt;
    let file = |layer: &WritableLayer| layer.files().join("folder/file");
    let changes: [fn(&Path); 6] = [
        |file| fs::write(file, "changed").unwrap(),
        |file| fs::remove_file(file).unwrap(),
        |file| fs::set_permissions(file, fs::Permissions::from_mode(0o400)).unwrap(),
        |file| fs::rename(file, file.with_extension("new")).unwrap(),
        |file| fs::hard_link(file, file.with_extension("new")).unwrap(),
        |file| fs::set_permissions(file.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap(),
    ];
    for change in changes {
        let (_dir, layer) = agreed();
        assert_eq!(layer.truth().unwrap(), Truth::Both);
        change(&file(&layer));
        assert_eq!(layer.truth().unwrap(), Truth::Files);
    }
    // Also that nothing is left.
    let (_dir, layer) = agreed();
    fs::remove_dir_all(layer.files()).unwrap();
    fs::create_dir(layer.files()).unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Files);
    // Reading is none.
    let (_dir, layer) = agreed();
    fs::read(file(&layer)).unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Both);
}

#[test]
fn an_export_replaces_the_files_at_once() {
    let (_dir, layer) = agreed();
    layer.give_to_disk().unwrap();
    let export = layer.new_export();
    assert_ne!(export, layer.new_export());
    fs::create_dir(&export).unwrap();
    fs::write(export.join("new"), "").unwrap();
    layer.replace_files(&export).unwrap();
    layer.agree().unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Both);
    assert!(layer.files().join("new").exists() && export.join("other").exists());
    assert_eq!(layer.leftovers().unwrap(), [export]);
}

#[test]
fn files_count_until_a_fresh_disk_has_taken_them() {
    let (_dir, layer) = agreed();
    fs::write(layer.files().join("other"), "by the host").unwrap();
    fs::write(layer.fresh_disk(), "fresh").unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Files);
    // A crash between the two steps.
    fs::copy(layer.fresh_disk(), layer.disk()).unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Files);
    layer.give_to_fresh_disk().unwrap();
    assert_eq!(layer.truth().unwrap(), Truth::Disk);
    assert_eq!(fs::read(layer.disk()).unwrap(), b"fresh");
    assert!(!layer.fresh_disk().exists());
}

#[test]
fn who_has_a_vm_is_noted_as_long_as_it_runs() {
    let (_dir, layer) = agreed();
    assert_eq!(layer.vm(), None);
    let asked = AskedAt { address: "unix:///run/s".to_owned(), container: "one".to_owned() };
    let note = layer.note_vm(&asked).unwrap();
    assert_eq!(layer.vm(), Some(asked));
    drop(note);
    assert_eq!(layer.vm(), None);
    assert!(!layer.is_in_use().unwrap());
    let disk = File::options().write(true).open(layer.disk()).unwrap();
    assert!(lock_disk(&disk).unwrap());
    assert!(layer.is_in_use().unwrap());
    drop(disk);
    let fresh = File::create(layer.fresh_disk()).unwrap();
    assert!(!layer.is_in_use().unwrap());
    assert!(lock_disk(&fresh).unwrap());
    assert!(layer.is_in_use().unwrap());
}
