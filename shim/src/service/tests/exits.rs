//! Exit statuses, from the guest to whoever waits and deletes.

use super::*;

#[tokio::test]
async fn every_status_of_an_exec_is_told() {
    let bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    for status in 0..=255 {
        bench.exec("e", &["exit", &status.to_string()]).await.unwrap();
        bench.start("e").await.unwrap();
        assert_eq!((bench.wait("e").await.unwrap(), bench.delete("e").await.unwrap()), (status, status));
    }
    assert_eq!(bench.status("").await, Status::RUNNING);
}

#[tokio::test]
async fn every_status_of_an_init_is_told() {
    for status in 0..=255 {
        let bench = Bench::new().await;
        bench.create(&["exit", &status.to_string()], "", "").await.unwrap();
        bench.start("").await.unwrap();
        assert_eq!((bench.wait("").await.unwrap(), bench.delete("").await.unwrap()), (status, status));
    }
}

/// What a guest says is at most what a wait status can say.
#[tokio::test]
async fn no_status_is_out_of_range() {
    let bench = Bench::new().await;
    bench.create(&["exit", "4294967295"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 255);
}
