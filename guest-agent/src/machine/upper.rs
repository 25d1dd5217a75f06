//! A container's writable layer on its part of the upper disk: mounted for the container, and read for the host.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

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
/// Options of ext4: whether it waits until what is to be kept is on the medium (`Documentation/admin-guide/ext4.rst`).
const WAIT: &str = "barrier";
const DONT_WAIT: &str = "nobarrier";
/// Where its super block begins, and where in it the time of its last mount is.
const SUPER_BLOCK: u64 = 1024;
const MOUNT_TIME: u64 = 0x2c;
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
/// written is on the disk before, and the mount is no more. The disk isn't let go of yet: the root's last users die with
/// the container, which the kernel may still be cleaning up, and ext4 takes its time for its end, which a thread waits for.
pub(super) fn unmount_after(
    upper: &Upper,
    detach_root: impl FnOnce() -> Result<(), RootfsError>,
) -> Result<(), RootfsError> {
    let point = upper.mount_point();
    // One that failed to be mounted has nothing.
    let is_mounted = stop_waiting_for_medium(&point)?;
    let held = is_mounted.then(|| flush(&point)).transpose()?;
    detach_root()?;
    detach(&point)?;
    // Without a thread it is waited for here.
    let _thread = thread::Builder::new().name("unmount".to_owned()).spawn(move || drop(held));
    Ok(())
}

/// Brings what was written to the disk; returns the root of what is mounted.
fn flush(point: &Path) -> Result<File, RootfsError> {
    let upper = File::open(point).map_err(io("open", point))?;
    rustix::fs::syncfs(&upper).map_err(|error| io("flush", point)(error.into()))?;
    Ok(upper)
}

/// Has the file system wait no more until the host has put what it writes on its medium: it is enough that the disk's
/// file has it, which outlives this machine. A container's end is no more of a safeguard under other runtimes. False if
/// nothing is mounted.
fn stop_waiting_for_medium(point: &Path) -> Result<bool, RootfsError> {
    match fspick(CWD, point, FsPickFlags::FSPICK_CLOEXEC) {
        Ok(context) => reconfigure(&context, DONT_WAIT).map(|()| true).map_err(io("reconfigure", point)),
        // Not there, or not mounted.
        Err(Errno::NOENT | Errno::INVAL) => Ok(false),
        Err(error) => Err(io("reconfigure", point)(error.into())),
    }
}

/// Changes an option of a mounted file system.
fn reconfigure(picked: &OwnedFd, option: &str) -> std::io::Result<()> {
    fsconfig_set_flag(picked, option)?;
    Ok(fsconfig_reconfigure(picked)?)
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
/// One that nobody has mounted before has nothing to lose yet, so that its first mount doesn't wait for the host's medium.
fn mount_upper(upper: &Upper, at: &Path) -> Result<(), RootfsError> {
    mount_disk(&upper.device(), at)
}

fn mount_disk(device: &Path, at: &Path) -> Result<(), RootfsError> {
    let is_new = was_never_mounted(device).map_err(io("read", device))?;
    // Without this, ext4 would fill in a sparse template's inode tables from a kernel thread.
    let options = ["noinit_itable"].into_iter().chain(is_new.then_some(DONT_WAIT));
    let options: Vec<_> = options.map(|option| (option.to_owned(), None)).collect();
    let mounted = new_filesystem("ext4", Some(device), &options, 0)
        .map_err(io("mount writable layer (is it an ext4?)", device))?;
    if is_new {
        let picked = fspick(&mounted, "", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH);
        let changed = picked.map_err(std::io::Error::from).and_then(|picked| reconfigure(&picked, WAIT));
        changed.map_err(io("reconfigure", device))?;
    }
    mount_at(mounted.as_fd(), at)
}

/// Whether an ext4's super block has no time of a mount (`Documentation/filesystems/ext4/super.rst`, s_mtime).
fn was_never_mounted(device: &Path) -> std::io::Result<bool> {
    let mut time = [0; 4];
    File::open(device)?.read_exact_at(&mut time, SUPER_BLOCK + MOUNT_TIME)?;
    Ok(time == [0; 4])
}

/// Unpacks an archive, and returns when everything is on the disk.
async fn fill(content: OwnedFd, point: PathBuf, files: PathBuf) -> Result<(), RootfsError> {
    in_thread(move || {
        fs::create_dir(&files).map_err(io("make", &files))?;
        let archive = BufReader::with_capacity(BUFFER_BYTES, File::from(content));
        archive::unpack(archive, &files).map_err(RootfsError::Content)?;
        flush(&point).map(drop)
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use loop_device::LoopDevice;

    use super::*;

    #[test]
    fn only_the_first_mount_does_not_wait_for_the_medium_and_all_writes_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        assert!(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(file.path()).status().unwrap().success());
        assert!(was_never_mounted(file.path()).unwrap());
        let Some(device) = LoopDevice::of(file.path(), &[]) else {
            return eprintln!("no loop device can be had");
        };
        let at = tempfile::tempdir().unwrap();
        mount_disk(device.path(), at.path()).unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        unmount(at.path(), UnmountFlags::empty()).unwrap();
        let mount = mounts.lines().find(|line| line.contains(&*at.path().to_string_lossy())).unwrap();
        assert!(mount.contains(" ext4 ") && !mount.contains("barrier"), "{mount}");
        assert!(!was_never_mounted(file.path()).unwrap());
    }
}
