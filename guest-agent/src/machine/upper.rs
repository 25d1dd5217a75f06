//! The upper disk, whose file system holds a container's writable layer: taken for a container, and read for the host.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use agent_proto::export_upper_response::State;
use agent_proto::{ExportUpperRequest, ExportUpperResponse, RootFilesystem};
use rustix::fs::CWD;
use rustix::mount::{FsPickFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, unmount};

use super::disk::Disk;
use super::rootfs::{RootfsError, check_name, detach, io, mount_at};
use crate::archive;
use crate::container::{give, new_filesystem};

/// Where the disk is mounted for a container: there is one.
const UPPER: &str = "/run/supermachine/upper";
/// Names the container that has it.
const OWNER: &str = "/run/supermachine/upper.owner";
/// Where it is mounted only to be read.
const EXPORT: &str = "/run/supermachine/export";
/// What an archive is read and written in.
const BUFFER_BYTES: usize = 128 * 1024;

/// Mounts the disk for a container, fills it with `content`, and answers the options that put it on top of `lower`.
pub(super) async fn mount(
    container: &str,
    wanted: &RootFilesystem,
    lower: &Path,
    content: Option<OwnedFd>,
) -> Result<[(String, Option<String>); 2], RootfsError> {
    if Path::new(OWNER).exists() {
        return Err(RootfsError::UpperInUse);
    }
    let disk = find(wanted.upper_bytes).await?;
    mount_disk(&disk, UPPER)?;
    fs::write(OWNER, container).map_err(io("write", OWNER))?;
    let [files, work] = [&wanted.upper_directory, &wanted.work_directory].map(|name| Path::new(UPPER).join(name));
    match (content, files.exists()) {
        (Some(_), true) => return Err(RootfsError::UpperInhabited),
        (Some(content), false) => fill(content, files.clone()).await?,
        (None, true) => {}
        (None, false) => make_like(lower, &files).map_err(io("make", &files))?,
    }
    fs::create_dir_all(&work).map_err(io("make", &work))?;
    let option = |name: &str, path: PathBuf| (name.to_owned(), Some(path.display().to_string()));
    Ok([option("upperdir", files), option("workdir", work)])
}

/// Whether it is mounted for this container.
pub(super) fn belongs_to(container: &str) -> bool {
    fs::read_to_string(OWNER).is_ok_and(|owner| owner == container)
}

/// Brings what was written to the disk.
pub(super) fn flush() -> Result<(), RootfsError> {
    let upper = File::open(UPPER).map_err(io("open", UPPER))?;
    rustix::fs::syncfs(&upper).map_err(|error| io("flush", UPPER)(error.into()))
}

/// Has the file system wait no more until the host has put what it writes on its medium: it is enough that the disk's
/// file has it, which outlives this machine. A container's end is no more of a safeguard under other runtimes.
pub(super) fn stop_waiting_for_medium() -> Result<(), RootfsError> {
    let reconfigure = || {
        let context = fspick(CWD, UPPER, FsPickFlags::FSPICK_CLOEXEC)?;
        fsconfig_set_flag(context.as_fd(), "nobarrier")?;
        fsconfig_reconfigure(context.as_fd())
    };
    reconfigure().map_err(|error| io("reconfigure", UPPER)(error.into()))
}

/// Ends the mount for the container that has it.
pub(super) fn let_go() -> Result<(), RootfsError> {
    detach(Path::new(UPPER))?;
    fs::remove_file(OWNER).map_err(io("remove", OWNER))
}

/// Writes what the layer holds to `archive`, unless that is known.
pub(super) async fn export(request: &ExportUpperRequest, archive: OwnedFd) -> Result<ExportUpperResponse, RootfsError> {
    check_name(&request.upper_directory)?;
    let disk = find(request.upper_bytes).await?;
    let (known, directory) = (request.known, request.upper_directory.clone());
    let export = move || {
        if Path::new(OWNER).exists() {
            return export_used(&disk, known, &Path::new(UPPER).join(directory), archive);
        }
        mount_disk(&disk, EXPORT)?;
        let exported = export_unused(&Path::new(EXPORT).join(directory), archive);
        let unmounted = unmount(EXPORT, UnmountFlags::empty());
        exported.and_then(|response| unmounted.map(|()| response).map_err(|error| io("unmount", EXPORT)(error.into())))
    };
    in_thread(export).await
}

/// Of a disk that a container uses. What was written since the last export is told by what reached the disk: all that
/// was written is brought there first.
fn export_used(disk: &Disk, known: u64, files: &Path, archive: OwnedFd) -> Result<ExportUpperResponse, RootfsError> {
    flush()?;
    let generation = generation(disk)?;
    if generation == known {
        return Ok(response(State::AS_KNOWN, generation));
    }
    write(files, archive)?;
    Ok(response(State::WRITTEN, generation))
}

fn export_unused(files: &Path, archive: OwnedFd) -> Result<ExportUpperResponse, RootfsError> {
    if !files.exists() {
        return Ok(response(State::UNUSED, 1));
    }
    write(files, archive)?;
    Ok(response(State::WRITTEN, 1))
}

fn write(files: &Path, archive: OwnedFd) -> Result<(), RootfsError> {
    let mut socket = File::from(archive);
    archive::write_tree(files, BufWriter::with_capacity(BUFFER_BYTES, &mut socket)).map_err(RootfsError::Export)?;
    // If the host has hung up, there is nobody to tell.
    let _gone = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
    Ok(())
}

/// How much ext4 has written since it was mounted: everything that changes changes this, once it is on the disk.
fn generation(disk: &Disk) -> Result<u64, RootfsError> {
    let path = Path::new("/sys/fs/ext4").join(disk.name()).join("session_write_kbytes");
    let text = fs::read_to_string(&path).map_err(io("read", &path))?;
    let written: u64 = text.trim().parse().map_err(|error| io("read", &path)(std::io::Error::other(error)))?;
    Ok(written.saturating_add(1))
}

fn response(state: State, generation: u64) -> ExportUpperResponse {
    ExportUpperResponse { state: state.into(), generation, ..Default::default() }
}

async fn find(bytes: u64) -> Result<Disk, RootfsError> {
    let disk = Disk::find("upper")?;
    disk.await_capacity(bytes.max(1)).await?;
    Ok(disk)
}

/// Always in the same way: a container's mount that is about to end doesn't stand in the way of another of that kind.
fn mount_disk(disk: &Disk, at: &str) -> Result<(), RootfsError> {
    // Without this, ext4 would fill in a sparse template's inode tables from a kernel thread.
    let upper = new_filesystem("ext4", Some(&disk.path()), &[("noinit_itable".to_owned(), None)], 0)
        .map_err(io("mount upper disk (is it an ext4?)", disk.path()))?;
    mount_at(upper.as_fd(), Path::new(at))
}

/// Unpacks an archive, and returns when everything is on the disk.
async fn fill(content: OwnedFd, files: PathBuf) -> Result<(), RootfsError> {
    in_thread(move || {
        fs::create_dir(&files).map_err(io("make", &files))?;
        let archive = BufReader::with_capacity(BUFFER_BYTES, File::from(content));
        archive::unpack(archive, &files).map_err(RootfsError::Content)?;
        flush()
    })
    .await
}

/// Runs what waits for the host or the disk, while the agent goes on answering.
async fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RootfsError> + Send + 'static,
) -> Result<T, RootfsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Makes the directory that is to lie over another, which shows as the one below did.
fn make_like(below: &Path, path: &Path) -> std::io::Result<()> {
    let like = fs::metadata(below)?;
    fs::create_dir(path)?;
    give(path, &like)
}
