//! The service as containerd meets it: a daemon on real sockets, called through a gRPC client.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use prost_types::FieldMask;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::*;
use crate::service::api::snapshots_client::SnapshotsClient;
use crate::service::api::{self, Info, Kind, Mount};

/// Longer than any condition here takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<anyhow::Result<()>>,
    client: Client,
}

type Client = SnapshotsClient<Channel>;

fn config(folder: &Path) -> Config {
    let mut config = Config::defaults().unwrap();
    config.paths.snapshotter = folder.join("root");
    config.paths.run = folder.join("run");
    config.paths.bakes = folder.join("bakes");
    config.paths.snapshotter_socket = folder.join("run/snapshotter.sock");
    config.paths.daemon_socket = folder.join("run/daemon.sock");
    config.bake.enabled = false;
    config
}

async fn start_in(folder: TempDir) -> Running {
    let config = config(folder.path());
    let socket = config.paths.snapshotter_socket.clone();
    let control = config.paths.daemon_socket.clone();
    // Within one process an ended daemon's lock goes when the last task of its ttrpc server has been dropped.
    let mut daemon = None;
    until(|| {
        daemon = Daemon::open(config.clone()).ok();
        daemon.is_some()
    })
    .await;
    let daemon = daemon.unwrap();
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(daemon.serve(async {
        stopped.await.unwrap();
    }));
    until(|| socket.exists() && control.exists()).await;
    let channel = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap().connect().await.unwrap();
    Running { folder, stop: Some(stop), served, client: SnapshotsClient::new(channel) }
}

async fn start() -> Running {
    start_in(tempfile::tempdir().unwrap()).await
}

async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Running {
    async fn end(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        drop(self.client);
        self.served.await.unwrap().unwrap();
        self.folder
    }

    async fn prepare(&self, key: &str, parent: &str) -> Result<Mount, Status> {
        self.prepare_with(key, parent, &[]).await
    }

    async fn prepare_with(&self, key: &str, parent: &str, pairs: &[(&str, &str)]) -> Result<Mount, Status> {
        let request = api::PrepareSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: labels(pairs),
            ..Default::default()
        };
        only(self.client.clone().prepare(request).await?.into_inner().mounts)
    }

    async fn view(&self, key: &str, parent: &str) -> Result<Mount, Status> {
        let request = api::ViewSnapshotRequest { key: key.to_owned(), parent: parent.to_owned(), ..Default::default() };
        only(self.client.clone().view(request).await?.into_inner().mounts)
    }

    async fn mounts(&self, key: &str) -> Result<Mount, Status> {
        let request = api::MountsRequest { key: key.to_owned(), ..Default::default() };
        only(self.client.clone().mounts(request).await?.into_inner().mounts)
    }

    async fn commit(&self, name: &str, key: &str) -> Result<(), Status> {
        let request = api::CommitSnapshotRequest { name: name.to_owned(), key: key.to_owned(), ..Default::default() };
        self.client.clone().commit(request).await.map(drop)
    }

    async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = api::RemoveSnapshotRequest { key: key.to_owned(), ..Default::default() };
        self.client.clone().remove(request).await.map(drop)
    }

    async fn stat(&self, key: &str) -> Result<Info, Status> {
        let request = api::StatSnapshotRequest { key: key.to_owned(), ..Default::default() };
        Ok(self.client.clone().stat(request).await?.into_inner().info.unwrap())
    }

    async fn update(&self, info: Info, fields: &[&str]) -> Result<Info, Status> {
        let paths = fields.iter().map(|field| (*field).to_owned()).collect();
        let request = api::UpdateSnapshotRequest {
            info: Some(info),
            update_mask: Some(FieldMask { paths }),
            ..Default::default()
        };
        Ok(self.client.clone().update(request).await?.into_inner().info.unwrap())
    }

    async fn list(&self, filters: &[&str]) -> Result<Vec<Info>, Status> {
        let filters = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let request = api::ListSnapshotsRequest { filters, ..Default::default() };
        let mut stream = self.client.clone().list(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(part) = stream.message().await? {
            all.extend(part.info);
        }
        Ok(all)
    }

    async fn names(&self, filters: &[&str]) -> Vec<String> {
        self.list(filters).await.unwrap().into_iter().map(|info| info.name).collect()
    }

    async fn usage(&self, key: &str) -> Result<(i64, i64), Status> {
        let request = api::UsageRequest { key: key.to_owned(), ..Default::default() };
        let usage = self.client.clone().usage(request).await?.into_inner();
        Ok((usage.size, usage.inodes))
    }

    async fn cleanup(&self) {
        self.client.clone().cleanup(api::CleanupRequest::default()).await.unwrap();
    }

    /// Commits a layer with one file of this name and content.
    async fn layer(&self, name: &str, parent: &str, file: &str, content: &str) {
        let key = format!("extract {name}");
        let mount = self.prepare(&key, parent).await.unwrap();
        fs::write(files(&mount).join(file), content).unwrap();
        self.commit(name, &key).await.unwrap();
    }

    fn snapshots(&self) -> PathBuf {
        self.folder.path().join("root/snapshots")
    }
}

fn only(mounts: Vec<Mount>) -> Result<Mount, Status> {
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    Ok(mounts.into_iter().next().unwrap())
}

fn option<'a>(mount: &'a Mount, name: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
}

/// The directory that writes go to.
fn files(mount: &Mount) -> PathBuf {
    match mount.r#type.as_str() {
        "bind" => PathBuf::from(&mount.source),
        _ => PathBuf::from(option(mount, "upperdir").unwrap()),
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

/// Mounts as containerd does: relative to the folder that the directories share, so that a long chain's options fit
/// into one page.
fn mount_at(mount: &Mount, snapshots: &Path, target: &Path) -> bool {
    let options = mount.options.join(",").replace(&format!("{}/", snapshots.display()), "");
    assert!(options.len() < 4096 || mount.r#type != "overlay", "{} bytes of options", options.len());
    let mut command = Command::new("mount");
    match mount.r#type.as_str() {
        "bind" => command.args(["--rbind", &mount.source]),
        _ => command.args(["-t", "overlay", "overlay", "-o", &options]),
    };
    command.arg(target).current_dir(snapshots).status().unwrap().success()
}

/// Runs `look` on the mounted snapshot.
fn mounted<T>(running: &Running, mount: &Mount, look: impl FnOnce(&Path) -> T) -> T {
    let target = tempfile::tempdir().unwrap();
    assert!(mount_at(mount, &running.snapshots(), target.path()), "{mount:?}");
    let result = look(target.path());
    assert!(Command::new("umount").arg(target.path()).status().unwrap().success());
    result
}

mod contents;
mod control;
mod lifecycle;
mod queries;
