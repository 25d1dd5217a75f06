//! Stat, Update, List, Usage.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_replaced_at_commit() {
    let running = start().await;
    running.prepare_with("a", "", &[("containerd.io/snapshot.ref", "x"), ("old", "1")]).await.unwrap();
    let before = running.stat("a").await.unwrap();
    assert_eq!(before.labels.len(), 2);
    let request = api::CommitSnapshotRequest {
        name: "layer".to_owned(),
        key: "a".to_owned(),
        labels: labels(&[("new", "2")]),
        ..Default::default()
    };
    running.client.clone().commit(request).await.unwrap();
    let after = running.stat("layer").await.unwrap();
    assert_eq!(after.labels, labels(&[("new", "2")]));
    assert_eq!(after.created_at, after.updated_at);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_labels_can_be_updated() {
    let running = start().await;
    running.prepare_with("a", "", &[("k1", "v1"), ("k2", "v2")]).await.unwrap();
    running.commit("layer", "a").await.unwrap();
    let info = |pairs: &[(&str, &str)]| Info {
        name: "layer".to_owned(),
        parent: "ignored".to_owned(),
        kind: Kind::View.into(),
        labels: labels(pairs),
        ..Default::default()
    };
    let before = running.stat("layer").await.unwrap();
    let all = running.update(info(&[("k1", "a"), ("k2", "b")]), &[]).await.unwrap();
    assert_eq!(all.labels, labels(&[("k1", "a"), ("k2", "b")]));
    assert_eq!((all.kind(), all.parent.as_str(), all.created_at), (Kind::Committed, "", before.created_at));
    assert_ne!(all.updated_at, before.updated_at);
    assert_eq!(running.stat("layer").await.unwrap(), all);

    let one = running.update(info(&[("k1", "c"), ("k3", "d")]), &["labels.k1"]).await.unwrap();
    assert_eq!(one.labels, labels(&[("k1", "c"), ("k2", "b")]));
    let gone = running.update(info(&[]), &["labels.k1"]).await.unwrap();
    assert_eq!(gone.labels, labels(&[("k2", "b")]));
    let replaced = running.update(info(&[("k4", "e")]), &["labels"]).await.unwrap();
    assert_eq!(replaced.labels, labels(&[("k4", "e")]));
    for field in ["parent", "kind", "name", "created_at"] {
        assert_eq!(code(running.update(info(&[("k5", "f")]), &["labels", field]).await), Code::InvalidArgument);
    }
    assert_eq!(running.stat("layer").await.unwrap().labels, labels(&[("k4", "e")]));
    let unknown = Info { name: "none".to_owned(), ..Default::default() };
    assert_eq!(code(running.update(unknown, &[]).await), Code::NotFound);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_what_any_filter_matches() {
    let running = start().await;
    running.layer("bottom", "", "f", "1").await;
    running.layer("top", "bottom", "g", "2").await;
    running.prepare_with("active", "top", &[("containerd.io/snapshot.ref", "sha256:1")]).await.unwrap();
    running.view("view", "top").await.unwrap();
    assert_eq!(running.names(&[]).await, ["active", "bottom", "top", "view"]);
    assert_eq!(running.names(&["kind==committed"]).await, ["bottom", "top"]);
    assert_eq!(running.names(&["kind==active", "kind==view"]).await, ["active", "view"]);
    assert_eq!(running.names(&["kind==committed,parent==bottom"]).await, ["top"]);
    assert_eq!(running.names(&["parent==top"]).await, ["active", "view"]);
    assert_eq!(running.names(&["name~=^(bottom|view)$"]).await, ["bottom", "view"]);
    assert_eq!(running.names(&["labels.\"containerd.io/snapshot.ref\"==sha256:1"]).await, ["active"]);
    assert_eq!(running.names(&["name==none"]).await, Vec::<String>::new());
    assert_eq!(code(running.list(&["kind=="]).await), Code::InvalidArgument);
    let listed = running.list(&["name==top"]).await.unwrap();
    assert_eq!(listed, [running.stat("top").await.unwrap()]);
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_lists_come_whole() {
    let running = start().await;
    for number in 0..150 {
        running.prepare(&format!("{number:03}"), "").await.unwrap();
    }
    let names = running.names(&[]).await;
    assert_eq!(names, (0..150).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_counts_the_snapshot_in_all_its_forms() {
    let running = start().await;
    let mount = running.prepare("a", "").await.unwrap();
    let block = 4096;
    let (empty, inodes) = running.usage("a").await.unwrap();
    assert!((0..=block).contains(&empty) && inodes == 1, "{empty} {inodes}");
    fs::write(files(&mount).join("f"), vec![1; 100_000]).unwrap();
    fs::hard_link(files(&mount).join("f"), files(&mount).join("g")).unwrap();
    let (bytes, inodes) = running.usage("a").await.unwrap();
    assert!((100_000..130_000).contains(&bytes) && inodes == 2, "{bytes} {inodes}");
    // The disk of a virtual machine counts by what it takes, not by its size.
    let disk = files(&mount).with_file_name("upper.ext4");
    fs::File::create(&disk).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(running.usage("a").await.unwrap().0, bytes);
    fs::write(&disk, vec![1; 200_000]).unwrap();
    assert!(running.usage("a").await.unwrap().0 >= bytes + 200_000);
    fs::remove_file(&disk).unwrap();

    running.commit("layer", "a").await.unwrap();
    let layer = files(&mount).with_file_name("layer.squashfs");
    until(|| layer.exists()).await;
    let squashed = i64::try_from(fs::metadata(&layer).unwrap().blocks() * 512).unwrap();
    assert_eq!(running.usage("layer").await.unwrap(), (bytes + squashed, 3));
    running.view("v", "layer").await.unwrap();
    assert_eq!(running.usage("v").await.unwrap(), (0, 0));
    assert_eq!(code(running.usage("none").await), Code::NotFound);
    running.end().await;
}
