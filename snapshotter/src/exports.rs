//! What containers have written, brought to where containerd looks for it: the files of their snapshots. Only a VM reads
//! a disk that a guest has written: the container's own while it runs, else one that is started for that.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use supermachine::shim::{self, ExportUpperRequest};
use supermachine::{
    ErrorKind, ExportError, Exported, Launch, Machine, MachineError, Network, RootDisks, StartError, StreamError, Vm,
    WritableError, WritableLayer,
};
use supermachine_config::Config;
use tokio::sync::Mutex as TurnMutex;
use tracing::{info, warn};
use ttrpc::Code;
use ttrpc::context::Context;

use crate::directory::Directory;
use crate::record::Id;
use crate::tree;

/// How long a VM that is coming or going may keep us waiting.
const VM_WITHIN: Duration = Duration::from_secs(20);
/// How often it is looked for meanwhile.
const VM_POLL: Duration = Duration::from_millis(50);

/// Why what a container has written can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportsError {
    #[error(transparent)]
    Layer(#[from] WritableError),
    #[error("this host can't run the virtual machine that would read it")]
    Machine(#[from] MachineError),
    #[error("the virtual machine that would read it can't be started")]
    Start(#[from] StartError),
    #[error("the virtual machine that reads it failed")]
    Stream(#[from] StreamError),
    #[error("the virtual machine that reads it failed")]
    Export(#[from] ExportError),
    #[error("the container's shim, which has its virtual machine, doesn't give it out")]
    Refused(#[source] Box<ttrpc::Error>),
    #[error("a virtual machine has it, and its shim can't be asked")]
    Unanswered,
    #[error("it was given up: the snapshotter stops")]
    Stopped,
}

impl ExportsError {
    /// What kind of fault it is.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Layer(_) => ErrorKind::Internal,
            Self::Machine(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Stream(error) => error.kind(),
            Self::Export(error) => error.kind(),
            Self::Refused(error) if matches!(**error, ttrpc::Error::RpcStatus(_)) => ErrorKind::Internal,
            Self::Refused(_) | Self::Unanswered | Self::Stopped => ErrorKind::Unavailable,
        }
    }

    /// Whether it may only be a VM that is coming or going.
    fn may_pass(&self) -> bool {
        match self {
            Self::Start(error) => error.is_in_use(),
            Self::Refused(error) => match &**error {
                ttrpc::Error::RpcStatus(status) => {
                    [Code::NOT_FOUND, Code::UNAVAILABLE].map(Some).contains(&status.code.enum_value().ok())
                }
                _ => true,
            },
            Self::Unanswered => true,
            _ => false,
        }
    }
}

/// Exports what is asked for, of each snapshot one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Exports(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    directory: Arc<Directory>,
    turns: Mutex<HashMap<Id, Arc<Turn>>>,
}

/// Held while a snapshot's files are being replaced: the generation of a running container's that they are.
type Turn = TurnMutex<Option<String>>;

impl Exports {
    pub(crate) fn new(config: Config, directory: Arc<Directory>) -> Self {
        Self(Arc::new(Shared { config, directory, turns: Mutex::default() }))
    }

    /// Makes sure that the files of an active snapshot are what its container sees. An export goes on if whoever asked
    /// for it gives up: the next one who asks needs it as well.
    pub(crate) async fn bring(&self, id: Id) -> Result<(), ExportsError> {
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move { shared.bring(id).await }).await.unwrap_or(Err(ExportsError::Stopped))
    }

    /// A snapshot was removed.
    pub(crate) fn forget(&self, id: Id) {
        self.0.turns.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Shared {
    async fn bring(&self, id: Id) -> Result<(), ExportsError> {
        let turn = Arc::clone(self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default());
        let mut known = turn.lock().await;
        let layer = self.directory.writable(id);
        let deadline = Instant::now() + VM_WITHIN;
        // It may end, or another begin, at any moment.
        while layer.is_ahead() {
            let tried = if layer.is_in_use()? {
                ask(id, &layer, &mut known).await
            } else {
                self.start_and_export(id, &layer).await
            };
            match tried {
                Err(error) if error.may_pass() && Instant::now() < deadline => tokio::time::sleep(VM_POLL).await,
                tried => return tried,
            }
        }
        Ok(())
    }

    /// Has a VM without a container read the disk.
    async fn start_and_export(&self, id: Id, layer: &WritableLayer) -> Result<(), ExportsError> {
        let start = Instant::now();
        let machine = Machine::load(&self.config)?;
        let launch = Launch {
            id: format!("export of snapshot {id}"),
            state_dir: self.config.paths.run.join("export").join(id.to_string()),
            root: RootDisks { upper: Some(layer.disk()), ..RootDisks::default() },
            network: Network::New,
            ..Launch::default()
        };
        let vm = Vm::start(&machine, launch).await?;
        let export = layer.new_export();
        let exported = vm.exporter(&vm.rootfs(), 0)?.into_directory(&export).await?;
        let adopted = {
            let layer = layer.clone();
            in_thread(move || {
                match exported {
                    Exported::Written { .. } => layer.replace_files(&export).and_then(|()| layer.agree())?,
                    Exported::Unused => layer.remove_disk()?,
                    Exported::AsKnown => {}
                }
                sweep(&layer);
                Ok(())
            })
            .await
        };
        // Only now: as long as it has the disk, no container can begin to write to it.
        vm.shutdown().await;
        info!(%id, took = ?start.elapsed(), "exported what a container has written");
        adopted
    }
}

/// Has the VM of a running container read its disk.
async fn ask(id: Id, layer: &WritableLayer, known: &mut Option<String>) -> Result<(), ExportsError> {
    let start = Instant::now();
    let asked = layer.vm().ok_or(ExportsError::Unanswered)?;
    let refused = |error| ExportsError::Refused(Box::new(error));
    let client = shim::connect(&asked.address).await.map_err(refused)?;
    let export = layer.new_export();
    let request = ExportUpperRequest {
        container_id: asked.container,
        directory: export.display().to_string(),
        known: known.clone().unwrap_or_default(),
        ..Default::default()
    };
    // The shim sees to it that it goes on.
    let answer = client.export_upper(Context::default(), &request).await.map_err(refused)?;
    if answer.as_known {
        return Ok(());
    }
    // Until they are replaced, it isn't known what they are.
    *known = None;
    let layer = layer.clone();
    in_thread(move || {
        layer.replace_files(&export)?;
        sweep(&layer);
        Ok(())
    })
    .await?;
    *known = Some(answer.generation);
    info!(%id, took = ?start.elapsed(), "exported what a running container has written");
    Ok(())
}

async fn in_thread(work: impl FnOnce() -> Result<(), ExportsError> + Send + 'static) -> Result<(), ExportsError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ExportsError::Stopped))
}

/// Deletes what exports have left, but for files that somebody has mounted: `nerdctl commit` may be reading them. Those
/// stay until the next export, or the daemon's next start.
pub(crate) fn sweep(layer: &WritableLayer) {
    let leftovers = match layer.leftovers() {
        Ok(leftovers) if leftovers.is_empty() => return,
        Ok(leftovers) => leftovers,
        Err(error) => return warn!(error = supermachine::chain(&error), "what exports have left isn't known"),
    };
    match is_mounted(&layer.files()) {
        Ok(true) => return,
        Ok(false) => {}
        Err(error) => return warn!(%error, "the mounts can't be read: what exports have left stays"),
    }
    for leftover in leftovers {
        if let Err(error) = tree::delete(&leftover) {
            warn!(path = %leftover.display(), %error, "what an export has left stays");
        }
    }
}

/// Whether a snapshot's files, or what they were before an export, are part of a mount.
fn is_mounted(files: &Path) -> io::Result<bool> {
    Ok(names(&fs::read_to_string("/proc/self/mountinfo")?, files))
}

/// Whether the text of a `mountinfo` file names the directory, in whole or, as containerd shortens long lists of lower
/// directories, from the snapshot's folder on; or one that was exchanged with it.
fn names(mountinfo: &str, files: &Path) -> bool {
    let Some(id) = files.parent().and_then(Path::file_name).and_then(|name| name.to_str()) else { return true };
    let (short, long, exchanged) = (format!("{id}/fs"), format!("/{id}/fs"), format!("/{id}/export-"));
    mountinfo
        .split([' ', ',', ':', '=', '\n'])
        .any(|word| word == short || word.ends_with(&long) || word.contains(&exchanged))
}

#[cfg(test)]
mod tests;
