//! A shim that goes on. containerd runs `delete` for a container of a group when it has closed its own connection for
//! that one, and the others' shim and VM must stay.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{DeleteRequest, KillRequest, ShutdownRequest, StateRequest};
use containerd_shim_protos::shim_async::TaskClient;
use nix::sys::signal::Signal;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;
use ttrpc::context::Context;
use ttrpc::{Code, Error};

use super::start::read_group;

/// How long a shim may take to answer: one that doesn't is killed, and `delete` has five seconds for all it does.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Makes sure that the shim which serves a container's group has forgotten the container. False if no such shim answers.
pub(super) fn forgets(bundle: &Path, id: &str) -> bool {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return false };
    if !matches!(read_group(&bundle.join("config.json")), Ok(Some(_))) {
        return false;
    }
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = runtime.block_on(async { timeout(ANSWER_WITHIN, forget(address.trim(), id)).await });
        asked.map_err(io::Error::from)?.map_err(io::Error::other)
    };
    ask().is_ok()
}

/// A shim that has no other container then ends.
async fn forget(address: &str, id: &str) -> ttrpc::Result<()> {
    let shim = TaskClient::new(Client::connect(address).await?);
    remove(&shim, id).await?;
    // One that has ended can't answer.
    let _ended = shim.shutdown(Context::default(), &ShutdownRequest { id: id.to_owned(), ..Default::default() }).await;
    Ok(())
}

async fn remove(shim: &TaskClient, id: &str) -> ttrpc::Result<()> {
    let state = StateRequest { id: id.to_owned(), ..Default::default() };
    if is_unknown(&shim.state(Context::default(), &state).await) {
        return Ok(());
    }
    let kill = KillRequest { id: id.to_owned(), signal: Signal::SIGKILL as u32, all: true, ..Default::default() };
    // It may have ended before.
    let _ended = shim.kill(Context::default(), &kill).await;
    loop {
        let delete = DeleteRequest { id: id.to_owned(), ..Default::default() };
        match shim.delete(Context::default(), &delete).await {
            // It is about to end.
            Err(Error::RpcStatus(status)) if status.code == Code::FAILED_PRECONDITION.into() => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            deleted if is_unknown(&deleted) => return Ok(()),
            deleted => return deleted.map(drop),
        }
    }
}

fn is_unknown<T>(answer: &ttrpc::Result<T>) -> bool {
    matches!(answer, Err(Error::RpcStatus(status)) if status.code == Code::NOT_FOUND.into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use containerd_shim_protos::api::{DeleteResponse, Empty, StateResponse};
    use containerd_shim_protos::shim_async::{Task, create_task};
    use ttrpc::asynchronous::{Server, TtrpcContext};
    use ttrpc::get_status;

    use super::*;

    /// A shim with one container, which isn't gone at once when it is killed. It counts what is asked of it.
    #[derive(Default)]
    struct Shim {
        left: AtomicU32,
        shutdowns: AtomicU32,
    }

    #[async_trait::async_trait]
    impl Task for Shim {
        async fn state(&self, _: &TtrpcContext, request: StateRequest) -> ttrpc::Result<StateResponse> {
            let known = request.id == "c1" && self.left.load(Ordering::SeqCst) > 0;
            known.then(StateResponse::default).ok_or_else(|| Error::RpcStatus(get_status(Code::NOT_FOUND, "")))
        }

        async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<Empty> {
            self.shutdowns.fetch_add(1, Ordering::SeqCst);
            Ok(Empty::default())
        }

        async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
            assert!(request.all && request.signal == 9);
            Ok(Empty::default())
        }

        async fn delete(&self, _: &TtrpcContext, _: DeleteRequest) -> ttrpc::Result<DeleteResponse> {
            match self.left.fetch_sub(1, Ordering::SeqCst) {
                1 => Ok(DeleteResponse::default()),
                _ => Err(Error::RpcStatus(get_status(Code::FAILED_PRECONDITION, "it runs"))),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_living_shim_of_a_group_forgets_the_container() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().to_owned();
        let forgets = async |id: &'static str| {
            let path = path.clone();
            tokio::task::spawn_blocking(move || super::forgets(&path, id)).await.unwrap()
        };
        let spec = |annotation: &str| {
            let spec = serde_json::json!({
                "ociVersion": "1.2.0", "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["true"]},
                "annotations": {annotation: "group"}
            });
            fs::write(path.join("config.json"), spec.to_string()).unwrap();
        };
        spec("io.kubernetes.cri.sandbox-id");
        assert!(!forgets("c1").await, "there is no shim");
        let address = format!("unix://{}/s", path.display());
        fs::write(path.join("address"), &address).unwrap();
        assert!(!forgets("c1").await, "the shim is gone");
        let shim = Arc::new(Shim { left: 3.into(), ..Shim::default() });
        let service: Arc<dyn Task + Send + Sync> = shim.clone();
        let mut server = Server::new().bind(&address).unwrap().register_service(create_task(service));
        server.start().await.unwrap();
        assert!(forgets("c2").await);
        assert_eq!(shim.left.load(Ordering::SeqCst), 3);
        assert!(forgets("c1").await);
        assert_eq!(shim.left.load(Ordering::SeqCst), 0);
        assert_eq!(shim.shutdowns.load(Ordering::SeqCst), 2, "it may have nothing left to do");
        spec("other");
        assert!(!forgets("c1").await, "a shim without a group has one container, and is ended with it");
    }
}
