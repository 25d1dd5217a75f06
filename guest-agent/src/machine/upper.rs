//! A container's writable layer on its part of the upper disk: mounted for the container, and read for the host.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use agent_proto::export_upper_response::State;
use agent_proto::{ExportUpperRequest, ExportUpperResponse, RootFilesystem};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsPickFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, unmount};

use super::rootfs::{RootfsError, check_name, detach, io, mount_at};
use super::uppers::{Upper, Uppers};
use crate::archive;
use crate::container::{give, new_filesystem};

/// Where one is mounted only to be read.
const EXPORT: &str = "/run/supermachine/export";
/// What an archive is read and written in.
const BUFFER_BYTES: usize = 128 * 1024;

/// Mounts a part of the disk for a container, fills it with `content`, and answers the options that put it on top of
/// `lower`.
pub(super) async fn mount(
    uppers: &Uppers,
    container: &str,
    wanted: &RootFilesystem,
    lower: &Path,
    content: Option<OwnedFd>,
) -> Result<[(String, Option<String>); 2], RootfsError> {
    let upper = uppers.find(wanted.upper_offset_bytes, wanted.upper_bytes).await?;
    uppers.give(wanted.upper_offset_bytes, container)?;
    let point = upper.mount_point();
    mount_upper(&upper, &point)?;
    let [files, work] = [&wanted.upper_directory, &wanted.work_directory].map(|name| point.join(name));
    match (content, files.exists()) {
        (Some(_), true) => return Err(RootfsError::UpperInhabited),
        (Some(content), false) => fill(content, point, files.clone()).await?,
        (None, true) => {}
        (None, false) => make_like(lower, &files).map_err(io("make", &files))?,
    }
    fs::create_dir_all(&work).map_err(io("make", &work))?;
    let option = |name: &str, path: PathBuf| (name.to_owned(), Some(path.display().to_string()));
    Ok([option("upperdir", files), option("workdir", work)])
}

/// Ends the mount for a container once its root file system, which lies on it, is detached by `detach_root`. What was
/// written is on the disk before: the root's last users die with the container, which the kernel may still be cleaning
/// up, so that the disk can't be let go of at once.
pub(super) fn unmount_after(
    upper: &Upper,
    detach_root: impl FnOnce() -> Result<(), RootfsError>,
) -> Result<(), RootfsError> {
    let point = upper.mount_point();
    // One that failed to be mounted has nothing.
    if stop_waiting_for_medium(&point)? {
        flush(&point)?;
    }
    detach_root()?;
    detach(&point)
}

/// Brings what was written to the disk.
fn flush(point: &Path) -> Result<(), RootfsError> {
    let upper = File::open(point).map_err(io("open", point))?;
    rustix::fs::syncfs(&upper).map_err(|error| io("flush", point)(error.into()))
}

/// Has the file system wait no more until the host has put what it writes on its medium: it is enough that the disk's
/// file has it, which outlives this machine. A container's end is no more of a safeguard under other runtimes. False if
/// nothing is mounted.
fn stop_waiting_for_medium(point: &Path) -> Result<bool, RootfsError> {
    let context = match fspick(CWD, point, FsPickFlags::FSPICK_CLOEXEC) {
        Ok(context) => context,
        // Not there, or not mounted.
        Err(Errno::NOENT | Errno::INVAL) => return Ok(false),
        Err(error) => return Err(io("reconfigure", point)(error.into())),
    };
    let reconfigure = || {
        fsconfig_set_flag(context.as_fd(), "nobarrier")?;
        fsconfig_reconfigure(context.as_fd())
    };
    reconfigure().map(|()| true).map_err(|error| io("reconfigure", point)(error.into()))
}

/// Writes what the layer holds to `archive`, unless that is known.
pub(super) async fn export(
    uppers: &Uppers,
    request: &ExportUpperRequest,
    archive: OwnedFd,
) -> Result<ExportUpperResponse, RootfsError> {
    check_name(&request.upper_directory)?;
    let upper = uppers.find(request.upper_offset_bytes, request.upper_bytes).await?;
    let is_used = uppers.is_given(request.upper_offset_bytes);
    let (known, directory) = (request.known, request.upper_directory.clone());
    let export = move || {
        if is_used {
            return export_used(&upper, known, &directory, archive);
        }
        mount_upper(&upper, Path::new(EXPORT))?;
        let exported = export_unused(&Path::new(EXPORT).join(directory), archive);
        let unmounted = unmount(EXPORT, UnmountFlags::empty());
        exported.and_then(|response| unmounted.map(|()| response).map_err(|error| io("unmount", EXPORT)(error.into())))
    };
    in_thread(export).await
}

/// Of a part that a container uses. What was written since the last export is told by what reached the disk: all that
/// was written is brought there first.
fn export_used(
    upper: &Upper,
    known: u64,
    directory: &str,
    archive: OwnedFd,
) -> Result<ExportUpperResponse, RootfsError> {
    let point = upper.mount_point();
    flush(&point)?;
    let generation = generation(upper)?;
    if generation == known {
        return Ok(response(State::AS_KNOWN, generation));
    }
    write(&point.join(directory), archive)?;
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
fn generation(upper: &Upper) -> Result<u64, RootfsError> {
    let path = upper.figures().join("session_write_kbytes");
    let text = fs::read_to_string(&path).map_err(io("read", &path))?;
    let written: u64 = text.trim().parse().map_err(|error| io("read", &path)(std::io::Error::other(error)))?;
    Ok(written.saturating_add(1))
}

fn response(state: State, generation: u64) -> ExportUpperResponse {
    ExportUpperResponse { state: state.into(), generation, ..Default::default() }
}

/// Always in the same way: a container's mount that is about to end doesn't stand in the way of another of that kind.
fn mount_upper(upper: &Upper, at: &Path) -> Result<(), RootfsError> {
    let device = upper.device();
    // Without this, ext4 would fill in a sparse template's inode tables from a kernel thread.
    let mounted = new_filesystem("ext4", Some(&device), &[("noinit_itable".to_owned(), None)], 0)
        .map_err(io("mount writable layer (is it an ext4?)", device))?;
    mount_at(mounted.as_fd(), at)
}

/// Unpacks an archive, and returns when everything is on the disk.
async fn fill(content: OwnedFd, point: PathBuf, files: PathBuf) -> Result<(), RootfsError> {
    in_thread(move || {
        fs::create_dir(&files).map_err(io("make", &files))?;
        let archive = BufReader::with_capacity(BUFFER_BYTES, File::from(content));
        archive::unpack(archive, &files).map_err(RootfsError::Content)?;
        flush(&point)
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
