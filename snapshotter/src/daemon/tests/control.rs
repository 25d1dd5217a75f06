//! What shims ask for.

use supermachine::daemon::request_bake_response::State;
use supermachine::daemon::{DaemonClient, EnsureLayersRequest, FindLayersRequest, RequestBakeRequest, connect};
use ttrpc::context;

use super::*;

async fn client(running: &Running) -> DaemonClient {
    connect(&running.folder.path().join("run/daemon.sock")).await.unwrap()
}

async fn ensure(client: &DaemonClient, directories: &[&Path]) -> Result<Vec<String>, ttrpc::Code> {
    let lower_directories = directories.iter().map(|path| path.display().to_string()).collect();
    let request = EnsureLayersRequest { lower_directories, ..Default::default() };
    match client.ensure_layers(context::Context::default(), &request).await {
        Ok(answer) => Ok(answer.layers),
        Err(ttrpc::Error::RpcStatus(status)) => Err(status.code.enum_value().unwrap()),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_there_when_the_answer_is() {
    let running = start().await;
    running.layer("one", "", "f", "1").await;
    running.layer("two", "one", "g", "2").await;
    let mount = running.prepare("a", "two").await.unwrap();
    let lower: Vec<&Path> = option(&mount, "lowerdir").unwrap().split(':').map(Path::new).collect();
    let client = client(&running).await;
    let layers = ensure(&client, &lower).await.unwrap();
    for (directory, layer) in lower.iter().zip(&layers) {
        assert_eq!(Path::new(layer), directory.with_file_name("layer.squashfs"));
        assert_eq!(&fs::read(layer).unwrap()[..4], b"hsqs");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_s_layers_are_found_by_containerd_s_name() {
    let running = start().await;
    running.layer("default/1/sha256:one", "", "f", "1").await;
    running.layer("default/2/sha256:two", "default/1/sha256:one", "g", "2").await;
    let client = client(&running).await;
    let find = async |namespace: &str, chain_id: &str| {
        let request = FindLayersRequest {
            containerd_namespace: namespace.to_owned(),
            chain_id: chain_id.to_owned(),
            ..Default::default()
        };
        match client.find_layers(context::Context::default(), &request).await {
            Ok(answer) => Ok(answer.layers),
            Err(ttrpc::Error::RpcStatus(status)) => Err(status.code.enum_value().unwrap()),
            Err(other) => panic!("{other}"),
        }
    };
    let mount = running.prepare("a", "default/2/sha256:two").await.unwrap();
    let lower = option(&mount, "lowerdir").unwrap().split(':').map(Path::new);
    let lowest_first = lower.rev().map(|directory| directory.with_file_name("layer.squashfs"));
    let layers = find("default", "sha256:two").await.unwrap();
    assert_eq!(layers.iter().map(PathBuf::from).collect::<Vec<_>>(), lowest_first.collect::<Vec<_>>());
    assert!(layers.iter().all(|layer| Path::new(layer).exists()));
    for (namespace, chain_id) in
        [("k8s.io", "sha256:two"), ("default", "sha256:thr"), ("default/1", "sha256:one"), ("", "")]
    {
        assert_eq!(find(namespace, chain_id).await, Err(ttrpc::Code::NOT_FOUND), "{namespace} {chain_id}");
    }
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_directories_of_snapshots_are_taken() {
    let running = start().await;
    running.layer("one", "", "f", "1").await;
    let client = client(&running).await;
    let snapshots = running.snapshots();
    for wrong in ["/etc", "1/fs", "../root/snapshots/1/fs"] {
        assert_eq!(ensure(&client, &[Path::new(wrong)]).await, Err(ttrpc::Code::INVALID_ARGUMENT), "{wrong}");
    }
    for wrong in ["1", "1/fs/f", "01/fs", "+1/fs", "1/work", "x/fs", "1/../1/fs"] {
        assert_eq!(ensure(&client, &[&snapshots.join(wrong)]).await, Err(ttrpc::Code::INVALID_ARGUMENT), "{wrong}");
    }
    let active = files(&running.prepare("a", "one").await.unwrap());
    assert_eq!(ensure(&client, &[&active]).await, Err(ttrpc::Code::INVALID_ARGUMENT));
    assert_eq!(ensure(&client, &[&snapshots.join("7/fs")]).await, Err(ttrpc::Code::NOT_FOUND));
    running.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bakes_that_are_switched_off_are_not_queued() {
    let running = start().await;
    let client = client(&running).await;
    let answer = client.request_bake(context::Context::default(), &RequestBakeRequest::default()).await.unwrap();
    assert_eq!(answer.state.enum_value(), Ok(State::DISABLED));
    let (vcpus, layers) = (65, vec!["layer".to_owned()]);
    for odd in [RequestBakeRequest { vcpus, ..Default::default() }, RequestBakeRequest { layers, ..Default::default() }]
    {
        assert!(client.request_bake(context::Context::default(), &odd).await.is_err());
    }
    running.end().await;
}
