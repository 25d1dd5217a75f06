//! What is seen in the mounted snapshots. Needs root, as the daemon does.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn layers_stack_and_views_refuse_writes() {
    let running = start().await;
    running.layer("one", "", "f", "1").await;
    running.layer("two", "one", "f", "2").await;
    running.layer("three", "two", "g", "3").await;
    let mount = running.prepare("a", "three").await.unwrap();
    mounted(&running, &mount, |at| {
        assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "2");
        fs::remove_file(at.join("g")).unwrap();
        fs::write(at.join("h"), "4").unwrap();
    });
    running.commit("four", "a").await.unwrap();
    let view = running.view("v", "four").await.unwrap();
    mounted(&running, &view, |at| {
        assert!(!at.join("g").exists());
        assert_eq!(fs::read_to_string(at.join("h")).unwrap(), "4");
        assert!(fs::write(at.join("h"), "5").is_err());
    });
    // The lower layer is as it was.
    let view = running.view("w", "three").await.unwrap();
    mounted(&running, &view, |at| assert_eq!(fs::read_to_string(at.join("g")).unwrap(), "3"));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_directory_keeps_owner_and_mode() {
    let running = start().await;
    let mount = running.prepare("a", "").await.unwrap();
    assert_eq!(fs::metadata(files(&mount)).unwrap().mode() & 0o7777, 0o755);
    fs::set_permissions(files(&mount), fs::Permissions::from_mode(0o1711)).unwrap();
    chown(files(&mount), Some(12), Some(34)).unwrap();
    running.commit("one", "a").await.unwrap();
    let mount = running.prepare("b", "one").await.unwrap();
    mounted(&running, &mount, |at| {
        let root = fs::metadata(at).unwrap();
        assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o1711, 12, 34));
    });
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_128_layers_mounts() {
    let running = start().await;
    let mut parent = String::new();
    for number in 1..=128 {
        let name = format!("sha256:{number:064}");
        running.layer(&name, &parent, &format!("file-{number}"), "x").await;
        parent = name;
    }
    let mount = running.prepare("a", &parent).await.unwrap();
    mounted(&running, &mount, |at| {
        assert_eq!(fs::read_dir(at).unwrap().count(), 128);
        fs::write(at.join("file-1"), "changed").unwrap();
    });
    let view = running.view("v", &parent).await.unwrap();
    mounted(&running, &view, |at| assert_eq!(fs::read_to_string(at.join("file-1")).unwrap(), "x"));
    running.end().await;
}
