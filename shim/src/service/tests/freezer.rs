//! Pause and Resume, and what they leave possible.

use containerd_shim_protos::api::{PauseRequest, ResumeRequest};

use super::*;

impl Bench {
    async fn pause(&self) -> ttrpc::Result<Empty> {
        self.client.pause(within(), &PauseRequest { id: "c1".into(), ..Default::default() }).await
    }

    async fn resume(&self) -> ttrpc::Result<Empty> {
        self.client.resume(within(), &ResumeRequest { id: "c1".into(), ..Default::default() }).await
    }
}

#[tokio::test]
async fn a_paused_container_takes_no_processes_and_goes_on() {
    let mut bench = Bench::new().await;
    assert_eq!(code(bench.pause().await), Code::NOT_FOUND);
    bench.create(&["sleep"], "", "").await.unwrap();
    assert_eq!(code(bench.pause().await), Code::FAILED_PRECONDITION);
    bench.start("").await.unwrap();
    bench.exec("early", &["sleep"]).await.unwrap();
    assert_eq!(code(bench.resume().await), Code::FAILED_PRECONDITION);

    bench.pause().await.unwrap();
    assert!(bench.sandbox().is_frozen());
    assert_eq!((bench.status("").await, bench.status("early").await), (Status::PAUSED, Status::PAUSED));
    assert_eq!(code(bench.pause().await), Code::FAILED_PRECONDITION);
    assert_eq!(code(bench.start("early").await), Code::FAILED_PRECONDITION);
    assert_eq!(code(bench.exec("late", &["sleep"]).await), Code::FAILED_PRECONDITION);
    assert_eq!(code(bench.delete("").await), Code::FAILED_PRECONDITION);

    bench.resume().await.unwrap();
    assert!(!bench.sandbox().is_frozen());
    assert_eq!((bench.status("").await, bench.status("early").await), (Status::RUNNING, Status::CREATED));
    bench.start("early").await.unwrap();
    assert_eq!(
        bench.topics().await,
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/paused",
            "/tasks/resumed",
            "/tasks/exec-started"
        ]
    );
}

#[tokio::test]
async fn a_paused_container_can_be_killed() {
    let mut bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    bench.pause().await.unwrap();
    bench.kill("", 9).await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 137);
    assert_eq!(bench.status("").await, Status::STOPPED);
    assert_eq!(
        (code(bench.resume().await), code(bench.pause().await)),
        (Code::FAILED_PRECONDITION, Code::FAILED_PRECONDITION)
    );
    assert_eq!(bench.delete("").await.unwrap(), 137);
    let topics = ["/tasks/create", "/tasks/start", "/tasks/paused", "/tasks/exit", "/tasks/delete"];
    assert_eq!(bench.topics().await, topics);
}

#[tokio::test]
async fn a_container_that_cannot_be_paused_runs() {
    let bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    bench.sandbox().crash("kernel panic").await;
    // Unavailable, or too late: its end is told in the meantime.
    bench.pause().await.unwrap_err();
    assert!(![Status::PAUSED, Status::PAUSING].contains(&bench.status("").await));
}
