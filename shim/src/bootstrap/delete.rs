//! `delete`: cleans up after a shim that is gone or doesn't answer. Works without it, twice, and in 5 seconds.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use containerd_shim::Flags;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{self, Message as _};
use nix::mount::MntFlags;
use supermachine_config::{Config, ConfigError};
use thiserror::Error;

use super::{SocketPath, living, remove_socket};
use crate::bundle::{Bundle, GuestSpec};
use crate::hooks::{self, Status};
use crate::host_cgroup::HostCgroup;
use crate::process_record;
use crate::remains::Remains;
use crate::service::to_timestamp;
use crate::task::Identity;

/// What a container that had to be cleaned up is reported to have ended with: as if killed.
const KILLED: u32 = 128 + 9;

/// Why something was left behind.
#[derive(Debug, Error)]
pub(crate) enum DeleteError {
    /// The bundle isn't known.
    #[error("find the bundle")]
    Bundle(#[source] io::Error),
    /// The configuration is wrong, so the state's place isn't known.
    #[error("read the configuration")]
    Config(#[from] ConfigError),
    /// The note of what a VM leaves can't be read.
    #[error("read what the virtual machine leaves, as noted in {path}")]
    Read {
        /// The bundle.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A process could not be ended.
    #[error("kill the process noted in {path}")]
    Kill {
        /// The note.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The root file system is still mounted.
    #[error("unmount {path}")]
    Unmount {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: containerd_shim::Error,
    },
    /// A file is still there.
    #[error("remove {path}")]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The reply could not be encoded.
    #[error("encode the reply")]
    Encode(#[source] protobuf::Error),
    /// Standard output is gone.
    #[error("write the reply")]
    Reply(#[source] io::Error),
}

/// Runs `delete` for the bundle named by `-bundle`, or in the current directory.
pub(crate) fn run(flags: &Flags) -> Result<(), DeleteError> {
    let bundle = match flags.bundle.as_str() {
        "" => env::current_dir().map_err(DeleteError::Bundle)?,
        path => path.into(),
    };
    let config = Config::load()?;
    let pid = if living::forgets(&bundle, &flags.id) { 0 } else { end(&bundle, flags, &config)? };
    unmount(&bundle.join("rootfs"))?;
    let response = DeleteResponse {
        pid,
        exit_status: KILLED,
        exited_at: Some(to_timestamp(SystemTime::now())).into(),
        ..Default::default()
    };
    let bytes = response.write_to_bytes().map_err(DeleteError::Encode)?;
    io::stdout().write_all(&bytes).map_err(DeleteError::Reply)
}

/// Ends the shim and the VM, and removes what they leave. Returns the VMM's process id, 0 if there was none.
fn end(bundle: &Path, flags: &Flags, config: &Config) -> Result<u32, DeleteError> {
    let kill = |note: &str| {
        let path = bundle.join(note);
        process_record::kill(&path).map_err(|source| DeleteError::Kill { path, source })
    };
    let shim = kill(process_record::SHIM)?;
    let pid = kill(process_record::VMM)?.unwrap_or_default();
    if shim.is_some() {
        remove_shim_socket(bundle)?;
    }
    run_poststop(bundle, &flags.id);
    let cgroup = Bundle::load(bundle).ok().and_then(|bundle| HostCgroup::of(&bundle.spec));
    let joined = Remains::read(bundle).map_err(|source| DeleteError::Read { path: bundle.to_owned(), source })?;
    remove(config.paths.sandbox(&flags.namespace, &flags.id), cgroup)?;
    if let Some(Remains { state, cgroup }) = joined {
        remove(state, cgroup.as_deref().and_then(HostCgroup::at))?;
    }
    Ok(pid)
}

/// Removes what a VM leaves: its directory and its cgroup.
fn remove(state: PathBuf, cgroup: Option<HostCgroup>) -> Result<(), DeleteError> {
    if let Some(cgroup) = cgroup {
        cgroup.remove().map_err(|source| DeleteError::Remove { path: cgroup.path().to_owned(), source })?;
    }
    gone(fs::remove_dir_all(&state)).map_err(|source| DeleteError::Remove { path: state, source })
}

fn remove_shim_socket(bundle: &Path) -> Result<(), DeleteError> {
    let Ok(address) = fs::read_to_string(bundle.join("address")) else { return Ok(()) };
    let removed = remove_socket(&SocketPath::parse(address.trim()));
    removed.map_err(|source| DeleteError::Remove { path: address.into(), source })
}

/// Runs the hooks that free what others hold for the container. Their failure keeps nothing else from being freed.
fn run_poststop(bundle: &Path, id: &str) {
    let Ok(loaded) = Bundle::load(bundle) else { return };
    let identity = Identity::new(id, &loaded);
    let Ok(spec) = GuestSpec::hooks_of(loaded) else { return };
    if spec.poststop.is_empty() || bundle.join(hooks::POSTSTOP_RAN).exists() {
        return;
    }
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(hooks::run(&spec.poststop, &identity.state(Status::Stopped, 0))).map_err(io::Error::other)
    };
    if let Err(error) = run() {
        // containerd logs what `delete` writes here.
        drop(writeln!(io::stderr(), "poststop: {}", supermachine::chain(&error)));
    }
}

fn unmount(rootfs: &Path) -> Result<(), DeleteError> {
    let flags = (MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).bits();
    let unmounted = containerd_shim::mount::umount_recursive(rootfs.to_str(), flags);
    unmounted.map_err(|source| DeleteError::Unmount { path: rootfs.to_owned(), source })
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
