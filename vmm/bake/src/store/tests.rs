use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::extents::Extent;
use crate::key::MachineFacts;
use crate::key::tests::facts;
use crate::{ExtentsError, PublishError, Published};

struct Fixture {
    _dir: TempDir,
    store: Store,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("bakes"), &dir.path().join("run"));
    Fixture { _dir: dir, store }
}

fn base() -> Subject {
    Subject::base(facts())
}

fn image() -> Subject {
    Subject::image(facts(), vec![Digest([1; 32])])
}

fn publish_for(store: &Store, facts: MachineFacts) -> Published {
    publish_over(store, Subject::base(facts), None)
}

fn publish_over(store: &Store, subject: Subject, over: Option<Digest>) -> Published {
    let mut draft = store.draft().unwrap();
    draft.state.write_all(b"registers").unwrap();
    draft.memory.write_all(&[7; 2 * 4096]).unwrap();
    // Times must be old enough to be trusted; a real capture takes longer than this.
    sleep(Duration::from_millis(30));
    draft.publish(subject, over, vec![Extent { guest_page: 3, file_page: 0, pages: 2 }]).unwrap()
}

fn publish(store: &Store) -> Key {
    match publish_for(store, facts()) {
        Published::New(key) => key,
        Published::AlreadyThere(_) => panic!("published twice"),
    }
}

fn miss(store: &Store) -> String {
    match store.lookup(&base()) {
        Lookup::Hit(_) => panic!("a hit"),
        Lookup::Miss(reason) => reason.to_string(),
    }
}

fn names(store: &Store) -> Vec<String> {
    fs::read_dir(store.directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Changes one byte of a file of a bake, as a broken disk or a fat finger would.
fn flip(store: &Store, key: &Key, name: &str, offset: u64) {
    let path = store.directory().join(key.to_string()).join(name);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn a_published_bake_is_found_and_verified_once() {
    let Fixture { _dir, store } = fixture();
    assert_eq!(miss(&store), "no bake for this machine key yet");
    let key = publish(&store);
    let Lookup::Hit(bake) = store.lookup(&base()) else { panic!("a miss") };
    assert_eq!(bake.manifest.state.bytes, 9);
    assert_eq!(bake.manifest.subject, base());
    sleep(Duration::from_millis(30));
    drop(store.lookup(&base()));
    assert!(store.open(&base()).unwrap().is_verified());
    for name in [MANIFEST, STATE, MEMORY] {
        let mode = fs::metadata(store.directory().join(key.to_string()).join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400, "{name}");
    }
}

#[test]
fn any_manifest_can_be_read_and_stays() {
    let Fixture { _dir, store } = fixture();
    assert!(matches!(store.manifest(&facts().key()), Err(Reason::Absent)));
    let key = publish(&store);
    let entry = &store.list().unwrap()[0];
    assert!(entry.made_at.is_some() && !entry.in_use && entry.disk_bytes > 0);
    assert_eq!(store.manifest(&key).unwrap().subject, base());
    let other = MachineFacts { vcpus: 2, ..facts() }.key();
    fs::rename(store.directory().join(key.to_string()), store.directory().join(other.to_string())).unwrap();
    let fault = store.manifest(&other).unwrap_err().fault();
    assert_eq!(fault, "it was made for another machine (its key belongs to something else)");
    flip(&store, &other, MANIFEST, 40);
    let fault = store.manifest(&other).unwrap_err().fault();
    assert_eq!(fault, "the manifest's digest does not match its contents");
    assert_eq!(names(&store), [other.to_string()]);
}

#[test]
fn a_changed_byte_in_any_file_is_noticed_and_the_bake_removed() {
    for (file, why) in [
        (MANIFEST, "the manifest's digest does not match its contents"),
        (STATE, "the digest of the file `state` does not match the manifest"),
        (MEMORY, "the digest of the file `memory` does not match the manifest"),
    ] {
        let Fixture { _dir, store } = fixture();
        let key = publish(&store);
        sleep(Duration::from_millis(30));
        assert!(matches!(store.lookup(&base()), Lookup::Hit(_)));
        flip(&store, &key, file, if file == MANIFEST { 40 } else { 5 });
        assert_eq!(miss(&store), format!("bake {key} is corrupt: {why}; removed"));
        assert_eq!(names(&store), Vec::<String>::new());
        assert_eq!(miss(&store), "no bake for this machine key yet");
    }
}

#[test]
fn a_bake_of_another_machine_under_our_key_is_foreign() {
    let Fixture { _dir, store } = fixture();
    let other = MachineFacts { cpu_model: 1, ..facts() };
    let theirs = publish_for(&store, other).key();
    let ours = facts().key();
    fs::rename(store.directory().join(theirs.to_string()), store.directory().join(ours.to_string())).unwrap();
    let why = miss(&store);
    assert_eq!(
        why,
        format!("bake {ours} is corrupt: it was made for another machine (CPU model 1, here 107); removed")
    );
    assert_eq!(names(&store), Vec::<String>::new());
}

#[test]
fn truncated_and_missing_files_are_named() {
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    let memory = store.directory().join(key.to_string()).join(MEMORY);
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o600)).unwrap();
    fs::OpenOptions::new().write(true).open(&memory).unwrap().set_len(4096).unwrap();
    assert!(miss(&store).contains("the file `memory` has 4096 bytes instead of 8192"));
    let key = publish(&store);
    fs::remove_file(store.directory().join(key.to_string()).join(STATE)).unwrap();
    assert!(miss(&store).contains("the file `state` is missing"));
}

#[test]
fn files_that_others_can_write_are_refused_with_the_remedy_and_kept() {
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    let directory = store.directory().join(key.to_string());
    let memory = directory.join(MEMORY);
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o666)).unwrap();
    let why = miss(&store);
    assert!(why.contains(&format!("run `chmod go-w {}`", memory.display())), "{why}");
    fs::set_permissions(&memory, fs::Permissions::from_mode(0o400)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(miss(&store).contains("can be written by others"));
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(store.lookup(&base()), Lookup::Hit(_)));
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    let directory = store.directory().join(key.to_string());
    fs::rename(directory.join(STATE), store.directory().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(store.directory().join("elsewhere"), directory.join(STATE)).unwrap();
    assert!(miss(&store).contains("can't be read"));
}

#[test]
fn a_bake_in_use_is_not_removed() {
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    let Lookup::Hit(bake) = store.lookup(&base()) else { panic!("a miss") };
    assert!(store.list().unwrap()[0].in_use);
    assert!(!store.remove(&key).unwrap());
    drop(bake);
    assert!(!store.list().unwrap()[0].in_use);
    assert!(store.remove(&key).unwrap());
    assert!(!store.remove(&key).unwrap());
    assert_eq!(store.list().unwrap(), vec![]);
}

/// Whoever lists or removes bakes holds the lock for a moment. A start waits for that moment, and doesn't boot instead.
#[test]
fn a_moment_under_lock_hides_no_bake_from_a_start() {
    use std::os::unix::fs::MetadataExt;
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    let lock = File::open(store.directory().join(key.to_string()).join(MANIFEST)).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let inode = format!(":{} ", lock.metadata().unwrap().ino());
    let waits = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&inode))
    };
    std::thread::scope(|scope| {
        let start = scope.spawn(|| store.open(&base()).map(|_candidate| ()));
        while !start.is_finished() && !waits() {
            std::thread::yield_now();
        }
        drop(lock);
        start.join().unwrap().unwrap();
    });
}

#[test]
fn a_bake_is_published_once() {
    let Fixture { _dir, store } = fixture();
    let key = publish(&store);
    assert_eq!(publish_for(&store, facts()), Published::AlreadyThere(key));
    assert_eq!(names(&store), vec![key.to_string()]);
}

#[test]
fn unfinished_drafts_disappear() {
    let Fixture { _dir, store } = fixture();
    let draft = store.draft().unwrap();
    assert_eq!(names(&store).len(), 1);
    drop(draft);
    assert_eq!(names(&store).len(), 0);
    fs::create_dir(store.directory().join(".draft-1-1")).unwrap();
    let living = store.draft().unwrap();
    let other = store.draft().unwrap();
    assert_eq!(names(&store).len(), 2, "the abandoned one is gone, the two living ones stay");
    drop((living, other));
}

#[test]
fn a_capture_that_is_no_bake_is_not_published() {
    let Fixture { _dir, store } = fixture();
    let draft = store.draft().unwrap();
    let extents = vec![Extent { guest_page: 0, file_page: 0, pages: 1 }];
    let error = draft.publish(base(), None, extents).unwrap_err();
    assert!(matches!(error, PublishError::Extents(ExtentsError::WrongFileSize { covered: 4096, bytes: 0 })));
    assert_eq!(names(&store).len(), 0);
}

#[test]
fn a_lookup_survives_any_manifest() {
    let Fixture { _dir, store } = fixture();
    let key = facts().key();
    for bytes in [&b""[..], b"SMBAKE\0\0", &[0xff; 4096]] {
        let directory = store.directory().join(key.to_string());
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(MANIFEST), bytes).unwrap();
        assert!(miss(&store).contains("is corrupt"));
    }
}

/// Publishes an image's bake over the base's.
fn publish_image(store: &Store) -> Key {
    let Lookup::Hit(under) = store.lookup(&base()) else { panic!("a miss") };
    publish_over(store, image(), Some(under.manifest.memory.digest)).key()
}

fn miss_image(store: &Store) -> String {
    match store.lookup(&image()) {
        Lookup::Hit(_) => panic!("a hit"),
        Lookup::Miss(reason) => reason.to_string(),
    }
}

#[test]
fn an_image_s_bake_brings_the_one_it_lies_over_and_keeps_both() {
    let Fixture { _dir, store } = fixture();
    assert_eq!(miss_image(&store), "no bake of this image yet");
    let under = publish(&store);
    let key = publish_image(&store);
    let Lookup::Hit(bake) = store.lookup(&image()) else { panic!("a miss") };
    assert_eq!(bake.stack().iter().map(|bake| bake.key).collect::<Vec<_>>(), [under, key]);
    let pin = bake.into_pin();
    assert!(!store.remove(&under).unwrap() && !store.remove(&key).unwrap());
    drop(pin);
    assert!(store.remove(&key).unwrap() && store.remove(&under).unwrap());
}

#[test]
fn an_image_s_bake_is_good_over_the_very_base_it_was_made_over() {
    let Fixture { _dir, store } = fixture();
    let under = publish(&store);
    let key = publish_over(&store, image(), Some(Digest([9; 32]))).key();
    let why = "the bake that it differs from was made anew";
    assert_eq!(miss_image(&store), format!("bake {key} is corrupt: {why}; removed"));
    assert_eq!(names(&store), [under.to_string()]);
    publish_image(&store);
    assert!(store.remove(&under).unwrap());
    assert_eq!(miss_image(&store), "no bake for this machine key yet");
}

#[test]
fn damage_below_an_image_s_bake_is_found_with_it() {
    let Fixture { _dir, store } = fixture();
    let under = publish(&store);
    publish_image(&store);
    sleep(Duration::from_millis(30));
    assert!(matches!(store.lookup(&image()), Lookup::Hit(_)));
    assert!(store.open(&image()).unwrap().is_verified());
    flip(&store, &under, MEMORY, 5);
    assert!(!store.open(&image()).unwrap().is_verified());
    let why = "the digest of the file `memory` does not match the manifest";
    assert_eq!(miss_image(&store), format!("bake {under} is corrupt: {why}; removed"));
}

fn warm() -> Subject {
    Subject::warm(facts(), image().layers, Digest([4; 32]))
}

fn publish_warm(store: &Store) -> Key {
    publish_for(store, facts());
    publish_image(store);
    let over = store.manifest(&image().key()).unwrap().memory.digest;
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(64 * 4096).unwrap();
    disk.write_all_at(&[9; 4096], 5 * 4096).unwrap();
    let mut draft = store.draft().unwrap();
    draft.state.write_all(b"registers").unwrap();
    draft.memory.write_all(&[7; 2 * 4096]).unwrap();
    draft.keep_disk(&disk).unwrap();
    sleep(Duration::from_millis(30));
    draft.publish(warm(), Some(over), vec![Extent { guest_page: 3, file_page: 0, pages: 2 }]).unwrap().key()
}

#[test]
fn a_warm_bake_brings_its_disk_and_what_it_lies_over() {
    let Fixture { _dir, store } = fixture();
    let absent = store.lookup(&warm());
    assert!(matches!(absent, Lookup::Miss(Reason::NoWarm)), "{absent:?}");
    publish_warm(&store);
    let Lookup::Hit(bake) = store.lookup(&warm()) else { panic!("a miss") };
    let levels: Vec<_> = bake.stack().iter().map(|bake| bake.manifest.subject.level().to_string()).collect();
    assert_eq!(levels, ["base", "image", "warm"]);
    let disk = tempfile::tempfile().unwrap();
    crate::unpack(bake.upper.as_ref().unwrap(), bake.manifest.upper.unwrap().disk_bytes, &disk).unwrap();
    let mut blocks = vec![0; 64 * 4096];
    disk.read_exact_at(&mut blocks, 0).unwrap();
    assert!((0..64).all(|block| blocks[block * 4096..][..4096] == [if block == 5 { 9 } else { 0 }; 4096]));
}

#[test]
fn a_changed_or_missing_byte_of_the_disk_is_noticed() {
    let Fixture { _dir, store } = fixture();
    for (cut, words) in
        [(false, "the digest of the file `upper` does not match"), (true, "the file `upper` has 4111 bytes")]
    {
        let key = publish_warm(&store);
        flip(&store, &key, UPPER, 4111);
        if cut {
            let path = store.directory().join(key.to_string()).join(UPPER);
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(4111).unwrap();
        }
        let Lookup::Miss(reason) = store.lookup(&warm()) else { panic!("a hit") };
        assert!(reason.to_string().contains(words), "{reason}");
        assert!(matches!(store.lookup(&warm()), Lookup::Miss(Reason::NoWarm)), "it was removed");
    }
}

#[test]
fn the_bakes_go_that_were_not_used_for_longest() {
    let Fixture { _dir, store } = fixture();
    let shaped = |vcpus| MachineFacts { vcpus, ..facts() };
    let keys = [1, 2, 3, 4].map(|vcpus| publish_for(&store, shaped(vcpus)).key());
    let pin = store.open(&Subject::base(shaped(2))).unwrap();
    let Lookup::Hit(bake) = store.lookup(&Subject::base(shaped(1))) else { panic!("a miss") };
    sleep(Duration::from_millis(30));
    bake.touch();
    drop(bake);
    // Looking at one is no use.
    sleep(Duration::from_millis(30));
    store.manifest(&keys[2]).unwrap();
    let total: u64 = store.list().unwrap().iter().map(|entry| entry.disk_bytes).sum();
    assert_eq!(store.shrink(total, &keys[3]).unwrap(), []);
    let removed: Vec<_> = store.shrink(total - 1, &keys[3]).unwrap().iter().map(|entry| entry.key).collect();
    assert_eq!(removed, [keys[2]], "the second is in use, the first was used last");
    let removed: Vec<_> = store.shrink(0, &keys[3]).unwrap().iter().map(|entry| entry.key).collect();
    assert_eq!(removed, [keys[0]]);
    drop(pin);
}

#[test]
fn one_daemon_at_a_time_has_a_store() {
    let Fixture { _dir, store } = fixture();
    let claim = store.claim().unwrap().unwrap();
    assert!(store.clone().claim().unwrap().is_none());
    assert_eq!(store.list().unwrap(), []);
    drop(claim);
    assert!(store.claim().unwrap().is_some());
}
