//! Update: what reaches the guest, and what is refused.

use containerd_shim_protos::api::UpdateTaskRequest;

use super::*;

const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Bench {
    async fn update(&self, type_url: &str, resources: &str) -> ttrpc::Result<Empty> {
        let any = Any { type_url: type_url.to_owned(), value: resources.as_bytes().to_vec(), ..Default::default() };
        let request = UpdateTaskRequest { id: "c1".into(), resources: Some(any).into(), ..Default::default() };
        self.client.update(within(), &request).await
    }
}

#[tokio::test]
async fn limits_of_the_guest_reach_it_until_the_exit() {
    let bench = Bench::new().await;
    assert_eq!(code(bench.update(RESOURCES, "{}").await), Code::NOT_FOUND);
    bench.create(&["sleep"], "", "").await.unwrap();
    let on_host = bench.launcher.launched.lock().unwrap()[0].0.resources.clone();
    assert_eq!(serde_json::to_value(on_host).unwrap(), serde_json::json!({"cpu": {"shares": 512}}));
    bench.update(RESOURCES, r#"{"memory": {"limit": 9}, "blockIO": {"weight": 10}}"#).await.unwrap();
    bench.start("").await.unwrap();
    bench.update(RESOURCES, r#"{"pids": {"limit": 8}}"#).await.unwrap();
    let expected = [serde_json::json!({"memory": {"limit": 9}}), serde_json::json!({"pids": {"limit": 8}})];
    assert_eq!(bench.sandbox().updates(), expected);
    bench.kill("", 9).await.unwrap();
    bench.wait("").await.unwrap();
    assert_eq!(code(bench.update(RESOURCES, "{}").await), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn what_is_no_resources_or_cannot_be_met_is_refused() {
    let bench = Bench::new().await;
    bench.create(&["sleep"], "", "").await.unwrap();
    let windows = "types.containerd.io/opencontainers/runtime-spec/1/WindowsResources";
    for (type_url, resources) in [
        (windows, "{}"),
        ("", "{}"),
        (RESOURCES, "{"),
        (RESOURCES, r#"{"memory": {"limit": "much"}}"#),
        (RESOURCES, r#"{"memory": {"limit": 1}}"#),
    ] {
        assert_eq!(code(bench.update(type_url, resources).await), Code::INVALID_ARGUMENT, "{type_url} {resources}");
    }
    // The bundle names no cgroup to pin the VMM in.
    assert_eq!(code(bench.update(RESOURCES, r#"{"cpu": {"cpus": "0"}}"#).await), Code::FAILED_PRECONDITION);
    assert!(bench.sandbox().updates().is_empty());
}
