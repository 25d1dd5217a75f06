//! Making, committing, removing; and what a crash leaves.

use futures::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_goes_from_active_to_committed_to_removed() {
    let running = start().await;
    let mount = running.prepare("ns/1/a", "").await.unwrap();
    assert_eq!((mount.r#type.as_str(), mount.options.as_slice()), ("bind", &["rw".to_owned(), "rbind".to_owned()][..]));
    assert_eq!(running.mounts("ns/1/a").await.unwrap(), mount);
    let active = running.stat("ns/1/a").await.unwrap();
    assert_eq!((active.kind(), active.parent.as_str()), (Kind::Active, ""));

    running.commit("ns/2/layer", "ns/1/a").await.unwrap();
    assert_eq!(code(running.stat("ns/1/a").await), Code::NotFound);
    assert_eq!(running.stat("ns/2/layer").await.unwrap().kind(), Kind::Committed);
    assert_eq!(code(running.mounts("ns/2/layer").await), Code::FailedPrecondition);
    assert_eq!(code(running.mounts("ns/1/a").await), Code::NotFound);

    // The key is free again, also for a view.
    let view = running.view("ns/1/a", "ns/2/layer").await.unwrap();
    assert_eq!((view.r#type.as_str(), view.options.as_slice()), ("bind", &["ro".to_owned(), "rbind".to_owned()][..]));
    assert_eq!(code(running.commit("x", "ns/1/a").await), Code::FailedPrecondition);
    running.remove("ns/1/a").await.unwrap();
    running.remove("ns/2/layer").await.unwrap();
    assert_eq!(code(running.remove("ns/2/layer").await), Code::NotFound);
    assert_eq!(running.names(&[]).await, Vec::<String>::new());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_names_share_one_space() {
    let running = start().await;
    running.prepare("a", "").await.unwrap();
    assert_eq!(code(running.prepare("a", "").await), Code::AlreadyExists);
    assert_eq!(code(running.view("a", "").await), Code::AlreadyExists);
    assert_eq!(code(running.commit("a", "a").await), Code::AlreadyExists);
    running.prepare("b", "").await.unwrap();
    running.commit("layer", "b").await.unwrap();
    assert_eq!(code(running.commit("layer", "a").await), Code::AlreadyExists);
    assert_eq!(code(running.prepare("layer", "").await), Code::AlreadyExists);
    // Refused without consequence.
    assert_eq!(running.stat("a").await.unwrap().kind(), Kind::Active);
    running.remove("a").await.unwrap();
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_is_committed_and_stays_while_it_has_children() {
    let running = start().await;
    assert_eq!(code(running.prepare("a", "none").await), Code::NotFound);
    running.layer("bottom", "", "f", "1").await;
    running.prepare("active", "bottom").await.unwrap();
    assert_eq!(code(running.prepare("a", "active").await), Code::InvalidArgument);
    running.view("view", "bottom").await.unwrap();
    assert_eq!(code(running.prepare("a", "view").await), Code::InvalidArgument);
    assert_eq!(code(running.remove("bottom").await), Code::FailedPrecondition);
    running.remove("view").await.unwrap();
    assert_eq!(code(running.remove("bottom").await), Code::FailedPrecondition);
    running.commit("top", "active").await.unwrap();
    assert_eq!(code(running.remove("bottom").await), Code::FailedPrecondition);
    assert_eq!(running.stat("top").await.unwrap().parent, "bottom");
    running.remove("top").await.unwrap();
    running.remove("bottom").await.unwrap();
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_what_it_does_not_do() {
    let running = start().await;
    assert_eq!(code(running.prepare("", "").await), Code::InvalidArgument);
    assert_eq!(code(running.commit("n", "none").await), Code::NotFound);
    let long = "x".repeat(4096);
    assert_eq!(code(running.prepare_with("a", "", &[("k", &long)]).await), Code::InvalidArgument);
    running.prepare("a", "").await.unwrap();
    assert_eq!(code(running.commit("", "a").await), Code::InvalidArgument);
    running.layer("bottom", "", "f", "1").await;
    let rebase = api::CommitSnapshotRequest {
        name: "n".to_owned(),
        key: "a".to_owned(),
        parent: "bottom".to_owned(),
        ..Default::default()
    };
    assert_eq!(code(running.client.clone().commit(rebase).await), Code::InvalidArgument);
    // A virtual machine's disk would be lost.
    fs::write(files(&running.mounts("a").await.unwrap()).with_file_name("upper.ext4"), "disk").unwrap();
    assert_eq!(code(running.commit("n", "a").await), Code::FailedPrecondition);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_can_unpack_the_same_chain() {
    let running = start().await;
    let mut parent = String::new();
    for level in 0..5 {
        let name = format!("chain-{level}");
        let keys: Vec<String> = (0..8).map(|client| format!("extract-{client} {name}")).collect();
        let prepared = join_all(keys.iter().map(|key| running.prepare(key, &parent))).await;
        assert!(prepared.iter().all(Result::is_ok), "{prepared:?}");
        let committed = join_all(keys.iter().map(|key| running.commit(&name, key))).await;
        let codes: Vec<Code> = committed.into_iter().filter_map(|result| result.err().map(|e| e.code())).collect();
        assert_eq!(codes, vec![Code::AlreadyExists; keys.len() - 1]);
        let removed = join_all(keys.iter().map(|key| running.remove(key))).await;
        assert_eq!(removed.iter().filter(|result| result.is_ok()).count(), keys.len() - 1);
        parent = name;
    }
    assert_eq!(running.names(&["kind==committed"]).await.len(), 5);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_folders_go_at_cleanup() {
    let running = start().await;
    running.layer("bottom", "", "f", "1").await;
    running.remove("bottom").await.unwrap();
    fs::create_dir_all(running.snapshots().join("4711/fs")).unwrap();
    running.prepare("kept", "").await.unwrap();
    running.cleanup().await;
    assert_eq!(fs::read_dir(running.snapshots()).unwrap().count(), 1);
    running.mounts("kept").await.unwrap();
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let running = start().await;
    running.layer("bottom", "", "f", "1").await;
    running.layer("top", "bottom", "g", "2").await;
    let mount = running.prepare("a", "top").await.unwrap();
    let before = running.list(&[]).await.unwrap();
    let folder = running.end().await;

    // As after a crash: an orphan, a half-made layer, an active snapshot whose folder never reached the disk.
    let snapshots = folder.path().join("root/snapshots");
    fs::create_dir_all(snapshots.join("99/fs")).unwrap();
    fs::remove_dir_all(snapshots.join("3")).unwrap();
    fs::remove_file(snapshots.join("1/layer.squashfs")).unwrap_or_default();
    fs::write(snapshots.join("1/layer.squashfs.partial"), "half").unwrap();
    let running = start_in(folder).await;
    assert_eq!(running.list(&[]).await.unwrap(), before);
    assert_eq!(running.mounts("a").await.unwrap(), mount);
    assert!(files(&mount).is_dir());
    assert!(!snapshots.join("99").exists());
    until(|| snapshots.join("1/layer.squashfs").exists() && snapshots.join("2/layer.squashfs").exists()).await;
    assert!(!snapshots.join("1/layer.squashfs.partial").exists());
    // Ids go on where they stood.
    running.prepare("b", "").await.unwrap();
    assert!(snapshots.join("4").exists());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_daemon_per_directory() {
    let running = start().await;
    let second = Daemon::open(config(running.folder.path())).unwrap_err();
    assert!(second.to_string().contains("another supermachine-snapshotter"), "{second}");
    let socket = fs::metadata(running.folder.path().join("run/snapshotter.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let folder = running.end().await;
    assert!(!folder.path().join("run/snapshotter.sock").exists());
    start_in(folder).await.end().await;
}
