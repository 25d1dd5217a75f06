//! Images of a containerd that knows two.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Response, transport::Server};

use super::content::content_server::{Content, ContentServer};
use super::images::images_server::{Images, ImagesServer};
use super::*;

/// Documents by digest. An image's is its name's.
#[derive(Clone, Default)]
struct Fake {
    documents: Arc<HashMap<String, Vec<u8>>>,
}

fn check_namespace<T>(request: &Request<T>) {
    assert_eq!(request.metadata().get("containerd-namespace").unwrap(), "test");
}

#[tonic::async_trait]
impl Images for Fake {
    async fn get(
        &self,
        request: Request<images::GetImageRequest>,
    ) -> Result<Response<images::GetImageResponse>, Status> {
        check_namespace(&request);
        let name = request.into_inner().name;
        if !["indexed", "plain", "broken"].contains(&name.as_str()) {
            return Err(Status::not_found("no image"));
        }
        let target = images::Descriptor { digest: name.clone(), ..images::Descriptor::default() };
        let image = images::Image { name, target: Some(target) };
        Ok(Response::new(images::GetImageResponse { image: Some(image) }))
    }
}

#[tonic::async_trait]
impl Content for Fake {
    type ReadStream = tokio_stream::Iter<std::vec::IntoIter<Result<content::ReadContentResponse, Status>>>;

    async fn read(&self, request: Request<content::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        check_namespace(&request);
        let digest = request.into_inner().digest;
        let document = self.documents.get(&digest).ok_or_else(|| Status::not_found("no content"))?;
        // In pieces, as large documents come.
        let part = |(index, data): (usize, &[u8])| content::ReadContentResponse {
            offset: 7 * index as i64,
            data: data.to_vec(),
        };
        let parts: Vec<_> = document.chunks(7).enumerate().map(|piece| Ok(part(piece))).collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}

async fn containerd(directory: &Path) -> Containerd {
    let layer = format!("sha256:{}", "1".repeat(64));
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let platform = json!({"os": "linux", "architecture": architecture});
    let config = json!({"config": {"Cmd": ["sh"]}, "rootfs": {"diff_ids": [layer]}});
    let documents = [
        ("indexed", json!({"manifests": [{"digest": "plain", "platform": platform}]})),
        ("plain", json!({"config": {"digest": "config"}})),
        ("broken", json!({"config": {"digest": "lost"}})),
        ("config", config),
    ];
    let documents = documents.map(|(digest, document)| (digest.to_owned(), document.to_string().into_bytes()));
    let fake = Fake { documents: Arc::new(HashMap::from(documents)) };
    let socket = directory.join("containerd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let server = Server::builder().add_service(ImagesServer::new(fake.clone())).add_service(ContentServer::new(fake));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    Containerd::connect(&socket, "test").await.unwrap()
}

#[tokio::test]
async fn an_image_is_found_behind_an_index_and_without_one() {
    let directory = tempfile::tempdir().unwrap();
    let containerd = containerd(directory.path()).await;
    for name in ["indexed", "plain"] {
        let image = containerd.image(name).await.unwrap();
        assert_eq!(image.chain_id, format!("sha256:{}", "1".repeat(64)));
        assert_eq!(image.programs, ["sh"]);
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let fake = containerd(directory.path()).await;
    let error = fake.image("absent").await.unwrap_err().to_string();
    assert!(error.contains("`nerdctl --namespace test pull --snapshotter supermachine absent` gets it"), "{error}");
    assert_eq!(
        fake.image("broken").await.unwrap_err().to_string(),
        "containerd lacks lost of the image; pull it again"
    );
    let nobody = Containerd::connect(&directory.path().join("nobody.sock"), "test").await.unwrap_err().to_string();
    assert!(nobody.contains("nobody.sock; start it"), "{nobody}");
}
