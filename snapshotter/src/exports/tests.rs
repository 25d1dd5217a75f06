//! What a daemon does without VMs, and against a shim that isn't one.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use supermachine::AskedAt;
use supermachine::shim::{ExportUpperResponse, Shim, create_shim};
use ttrpc::asynchronous::{Server, TtrpcContext};

use super::*;

const ID: Id = Id(7);

/// A daemon's directory with one snapshot that has a disk.
fn snapshot() -> (tempfile::TempDir, Exports, WritableLayer) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let directory = Arc::new(Directory::open(&root).unwrap());
    directory.make(ID, true, None).unwrap();
    let layer = directory.writable(ID);
    fs::write(layer.files().join("old"), "").unwrap();
    fs::write(layer.disk(), "disk").unwrap();
    let mut config = Config::defaults().unwrap();
    config.paths.run = dir.path().join("run");
    config.paths.vmm = dir.path().join("missing");
    (dir, Exports::new(config, directory), layer)
}

/// Has exported nothing yet, says so once, and gives out one generation.
#[derive(Default)]
struct FakeShim {
    is_created: AtomicBool,
}

#[async_trait]
impl Shim for FakeShim {
    async fn export_upper(&self, _: &TtrpcContext, request: ExportUpperRequest) -> ttrpc::Result<ExportUpperResponse> {
        assert_eq!(request.container_id, "c1");
        if !self.is_created.swap(true, Ordering::SeqCst) {
            return Err(ttrpc::Error::RpcStatus(ttrpc::get_status(Code::NOT_FOUND, "being created")));
        }
        if request.known == "first" {
            return Ok(ExportUpperResponse { generation: "first".into(), as_known: true, ..Default::default() });
        }
        fs::create_dir(&request.directory).unwrap();
        fs::write(Path::new(&request.directory).join("new"), "").unwrap();
        Ok(ExportUpperResponse { generation: "first".into(), ..Default::default() })
    }
}

/// Has a disk as a VMM would.
fn take(layer: &WritableLayer) -> File {
    let disk = File::options().write(true).open(layer.disk()).unwrap();
    assert!(supermachine::lock_disk(&disk).unwrap());
    disk
}

fn listed(layer: &WritableLayer) -> Vec<String> {
    let names = fs::read_dir(layer.files()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

#[tokio::test]
async fn a_running_container_s_shim_is_asked() {
    let (dir, exports, layer) = snapshot();
    let address = format!("unix://{}", dir.path().join("s").display());
    let mut server = Server::new().bind(&address).unwrap().register_service(create_shim(Arc::new(FakeShim::default())));
    server.start().await.unwrap();
    let _disk = take(&layer);
    let _note = layer.note_vm(&AskedAt { address, container: "c1".into() }).unwrap();
    exports.bring(ID).await.unwrap();
    assert_eq!(listed(&layer), ["new"]);
    assert!(layer.is_ahead(), "it goes on writing");
    assert!(layer.leftovers().unwrap().is_empty());
    // The second time all is as known: the files are those of before.
    fs::write(layer.files().join("mark"), "").unwrap();
    exports.bring(ID).await.unwrap();
    assert_eq!(listed(&layer).len(), 2);
    exports.forget(ID);
    exports.bring(ID).await.unwrap();
    assert_eq!(listed(&layer), ["new"]);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_is_done_for_files_that_count_and_a_host_without_vms_says_so() {
    let (_dir, exports, layer) = snapshot();
    let error = exports.bring(ID).await.unwrap_err();
    assert!(matches!(error, ExportsError::Machine(_)));
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(listed(&layer), ["old"]);
    layer.agree().unwrap();
    exports.bring(ID).await.unwrap();
    fs::remove_file(layer.disk()).unwrap();
    exports.bring(ID).await.unwrap();
}

#[test]
fn leftovers_are_swept() {
    let (_dir, _exports, layer) = snapshot();
    fs::create_dir_all(layer.new_export().join("below")).unwrap();
    sweep(&layer);
    assert!(layer.leftovers().unwrap().is_empty());
    assert_eq!(listed(&layer), ["old"]);
}

#[test]
fn mounts_name_a_snapshot_in_whole_or_in_short() {
    let files = Path::new("/root/snapshots/12/fs");
    let overlay = |options: &str| format!("90 22 0:50 / /m rw,relatime shared:9 - overlay overlay rw,{options}\n");
    for mounted in [
        overlay("lowerdir=/root/snapshots/1/fs,upperdir=/root/snapshots/12/fs,workdir=/root/snapshots/12/work"),
        overlay("lowerdir=12/fs:1/fs"),
        overlay("lowerdir=1/fs:12/fs"),
        "90 22 8:1 /root/snapshots/12/fs /m rw - ext4 /dev/sda rw\n".to_owned(),
        "90 22 8:1 /root/snapshots/12/export-5-0 /m rw - ext4 /dev/sda rw\n".to_owned(),
    ] {
        assert!(names(&mounted, files), "{mounted}");
    }
    for other in [overlay("lowerdir=/root/snapshots/112/fs,upperdir=/root/snapshots/2/fs"), overlay("lowerdir=112/fs")]
    {
        assert!(!names(&other, files), "{other}");
    }
}
