//! What every start writes to: a guest that was captured is restored once, and a container made in it.

use agent_proto::{CreateContainerRequest, ProcessRequest, RootFilesystem};
use bake::Run;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use ttrpc::context::Context;

use super::BakeError;
use super::guest::Guest;
use super::warm::HOSTNAME;
use crate::disks::DiskError;
use crate::vm::{StartError, resume_request};
use crate::vmm::VmmError;

const CONTAINER: &str = "rehearsal";
/// A container like any other. Its program is one that is there in every root, and isn't run.
const SPEC: &str = r#"{
    "ociVersion": "1.2.0",
    "process": {"args": ["/proc/self/exe"], "cwd": "/", "env": ["PATH=/usr/bin:/bin"], "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs"},
    "hostname": "localhost",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755"]}
    ],
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
        "maskedPaths": ["/proc/keys", "/proc/timer_list"],
        "readonlyPaths": ["/proc/bus", "/proc/sys"]
    }
}"#;

/// What a guest writes to: until its agent answers, and later.
pub(super) type Written = [Vec<Run>; 2];

/// A rehearsal that came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RehearsalError {
    #[error("the guest has no writable layer")]
    Upper(#[source] Box<BakeError>),
    #[error("the guest has no disks")]
    Disks(#[from] DiskError),
    #[error("the guest can't be restored")]
    Start(#[from] StartError),
    #[error("the guest's agent refused")]
    Agent(#[from] ttrpc::Error),
    #[error("the virtual machine monitor refused")]
    Vmm(#[from] VmmError),
    #[error("the guest can't be let go")]
    Resume(#[source] std::io::Error),
    #[error("it takes too long")]
    Late(#[from] Elapsed),
}

impl Guest<'_> {
    /// Makes a container and takes it away again, which ends the guest.
    pub(super) async fn rehearse(self, rootfs: RootFilesystem) -> Result<Written, RehearsalError> {
        let rehearsed = timeout(self.answer_within(), self.play(rootfs)).await;
        self.end().await;
        rehearsed?
    }

    async fn play(&self, rootfs: RootFilesystem) -> Result<Written, RehearsalError> {
        let agent = self.agent();
        let resume = resume_request(HOSTNAME, self.shape()).map_err(RehearsalError::Resume)?;
        agent.resume(Context::default(), &resume).await?;
        let written = self.list_written().await?;
        let create = CreateContainerRequest {
            container_id: CONTAINER.to_owned(),
            spec: SPEC.as_bytes().to_vec(),
            rootfs: Some(rootfs).into(),
            ..Default::default()
        };
        agent.create_container(Context::default(), &create).await?;
        let process = ProcessRequest { container_id: CONTAINER.to_owned(), ..Default::default() };
        agent.delete_process(Context::default(), &process).await?;
        let later = without(self.list_written().await?, &written);
        Ok([written, later])
    }
}

/// The pages of some runs that aren't in others.
fn without(runs: Vec<Run>, others: &[Run]) -> Vec<Run> {
    let mut left: Vec<Run> = Vec::new();
    let is_other = |page| {
        let behind = others.partition_point(|run| run.guest_page <= page);
        behind.checked_sub(1).is_some_and(|index| page - others[index].guest_page < others[index].pages)
    };
    for page in runs.into_iter().flat_map(|run| run.guest_page..run.guest_page + run.pages) {
        match left.last_mut() {
            _ if is_other(page) => {}
            Some(last) if last.guest_page + last.pages == page => last.pages += 1,
            _ => left.push(Run { guest_page: page, pages: 1 }),
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_later_is_what_was_not_written_before() {
        let run = |(guest_page, pages)| Run { guest_page, pages };
        let runs = |list: &[(u64, u64)]| list.iter().copied().map(run).collect::<Vec<_>>();
        let all = runs(&[(2, 5), (10, 1), (20, 2)]);
        assert_eq!(without(all.clone(), &runs(&[(4, 1), (10, 1)])), runs(&[(2, 2), (5, 2), (20, 2)]));
        assert_eq!(without(all.clone(), &all), []);
        assert_eq!(without(all.clone(), &runs(&[(0, 3), (21, 9)])), runs(&[(3, 4), (10, 1), (20, 1)]));
    }
}
