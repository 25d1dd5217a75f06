//! Out of memory: the event, its place before the exit, and the figure that stays.

use containerd_shim_protos::api::StatsRequest;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::Message as _;

use super::*;

impl Bench {
    async fn stats(&self) -> Metrics {
        let request = StatsRequest { id: "c1".into(), ..Default::default() };
        let stats = self.client.stats(within(), &request).await.unwrap().stats.unwrap();
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        Metrics::parse_from_bytes(&stats.value).unwrap()
    }
}

#[tokio::test]
async fn out_of_memory_is_told_before_the_exit_and_remembered_until_delete() {
    let mut bench = Bench::new().await;
    bench.create(&["greedy"], "", "").await.unwrap();
    assert_eq!(bench.stats().await.memory_events.oom_kill, 0);
    bench.start("").await.unwrap();
    assert_eq!(bench.wait("").await.unwrap(), 137);
    assert_eq!(bench.stats().await.memory_events.oom_kill, 1);
    bench.delete("").await.unwrap();
    let topics = ["/tasks/create", "/tasks/start", "/tasks/oom", "/tasks/exit", "/tasks/delete"];
    assert_eq!(bench.topics().await, topics);
    let gone = bench.client.stats(within(), &StatsRequest { id: "c1".into(), ..Default::default() }).await;
    assert_eq!(code(gone), Code::NOT_FOUND);
}

#[tokio::test]
async fn a_kill_that_nothing_follows_is_told_too_and_none_is_told_twice() {
    let mut bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    bench.start("").await.unwrap();
    assert_eq!(bench.topics().await, ["/tasks/create", "/tasks/start"]);
    bench.sandbox().kill_for_memory();
    assert_eq!(bench.topics().await, ["/tasks/oom"]);
    bench.exec("e1", &["greedy"]).await.unwrap();
    bench.start("e1").await.unwrap();
    assert_eq!(bench.wait("e1").await.unwrap(), 137);
    let topics = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/oom", "/tasks/exit"];
    assert_eq!(bench.topics().await, topics);
    bench.kill("", 9).await.unwrap();
    bench.wait("").await.unwrap();
    assert_eq!(bench.topics().await, ["/tasks/exit"]);
}
