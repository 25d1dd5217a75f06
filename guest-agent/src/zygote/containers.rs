//! The containers the zygote made, and how it makes processes for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIdMapping;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};

use super::message::{CreateOrder, JoinOrder, Reply};
use crate::cgroup::Cgroup;
use crate::container::{
    ContainerPlan, Endowment, ProcessPlan, Residence, SetupError, Step, Surroundings, run_first, run_further,
};
use crate::refusal::{Kind, Refusal};
use crate::sys::{Child, CloneRequest, clone_sibling};

/// Every container that has not been forgotten.
pub(crate) struct Containers {
    cgroup_root: PathBuf,
    /// The zygote's own namespace of process ids, to come back to.
    own_pids: File,
    known: BTreeMap<String, Known>,
}

/// What further processes of a container need.
struct Known {
    /// Handle (pidfd) of the first process.
    leader: OwnedFd,
    /// `CLONE_NEW*` flags of the namespaces it has of its own.
    namespaces: u64,
    first: ProcessPlan,
}

impl Containers {
    pub(crate) fn new(cgroup_root: PathBuf) -> io::Result<Self> {
        Ok(Self { cgroup_root, own_pids: File::open("/proc/self/ns/pid")?, known: BTreeMap::new() })
    }

    pub(crate) fn forget(&mut self, container: &str) {
        self.known.remove(container);
    }

    /// Makes a container and its first process.
    pub(crate) fn create(&mut self, order: CreateOrder, spec: &[u8], gifts: Vec<OwnedFd>) -> Reply {
        let plan = ContainerPlan::parse(spec)?;
        let endowment = endow(gifts, order.terminal)?;
        let cgroup = Cgroup::of(&self.cgroup_root, &order.container);
        make_cgroup(&cgroup, &plan)?;
        plan.devices.attach(cgroup.path())?;
        match self.bear_first(&order, &plan, &endowment, &cgroup) {
            Ok((pid, leader)) => {
                let namespaces = plan.namespaces.separate();
                self.known.insert(order.container, Known { leader, namespaces, first: plan.process });
                Ok(pid)
            }
            Err(error) => {
                // The agent removes the cgroup; what is in it must not run until then.
                let _ = cgroup.kill();
                Err(error.into())
            }
        }
    }

    /// Makes a further process.
    pub(crate) fn join(&mut self, order: &JoinOrder, process: &[u8], gifts: Vec<OwnedFd>) -> Reply {
        let Some(known) = self.known.get(&order.container) else {
            return Err(Refusal::new(Kind::NotFound, format!("container {:?} doesn't exist", order.container)));
        };
        let plan = ProcessPlan::parse_further(process, &known.first)?;
        let endowment = endow(gifts, order.terminal)?;
        let cgroup = Cgroup::of(&self.cgroup_root, &order.container);
        let directory = File::open(cgroup.path()).on("open cgroup", cgroup.path())?;
        let residence = Residence { leader: known.leader.as_fd(), namespaces: known.namespaces };
        let request = CloneRequest { namespaces: 0, cgroup: directory.as_fd() };
        let separate = known.namespaces & libc::CLONE_NEWPID as u64 != 0;
        let pids = if separate { PidNamespace::Of(residence.leader) } else { PidNamespace::Same };
        match self.bear(&pids, &request)? {
            Child::Born { pid, .. } => Ok(pid),
            Child::Myself => run_further(&plan, &residence, &endowment),
        }
    }

    fn bear_first(
        &self,
        order: &CreateOrder,
        plan: &ContainerPlan,
        endowment: &Endowment,
        cgroup: &Cgroup,
    ) -> Result<(i32, OwnedFd), SetupError> {
        let directory = File::open(cgroup.path()).on("open cgroup", cgroup.path())?;
        let user_namespace = plan.namespaces.creates(libc::CLONE_NEWUSER);
        let (mapped, mapping) = pipe_with(PipeFlags::CLOEXEC).step("make", "pipe")?;
        let request = CloneRequest { namespaces: plan.namespaces.clone_flags(), cgroup: directory.as_fd() };
        let pids = plan.namespaces.joined_pid().map_or(PidNamespace::Same, |path| PidNamespace::At(path));
        let Child::Born { pid, handle } = self.bear(&pids, &request)? else {
            drop(mapping);
            let surroundings = Surroundings {
                rootfs: &order.rootfs,
                files: &order.files,
                cgroup: cgroup.path(),
                cgroup_namespace: plan.namespaces.creates(libc::CLONE_NEWCGROUP),
                user_namespace,
                terminal: order.terminal,
            };
            run_first(plan, &surroundings, endowment, user_namespace.then(|| File::from(mapped)));
        };
        if user_namespace {
            map_ids(pid, plan)?;
        }
        drop(mapping);
        Ok((pid, handle))
    }

    /// Makes a process whose process id is counted in `pids`. Only children are moved by joining such a namespace, so
    /// the zygote joins it for the moment of the birth.
    fn bear(&self, pids: &PidNamespace<'_>, request: &CloneRequest<'_>) -> Result<Child, SetupError> {
        match pids {
            PidNamespace::Same => return clone_sibling(request).step("make", "process"),
            PidNamespace::At(path) => {
                let handle = File::open(path).on("open namespace", path)?;
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::ProcessID))
                    .on("join namespace", path)?;
            }
            PidNamespace::Of(leader) => move_into_thread_name_spaces(*leader, ThreadNameSpaceType::PROCESS_ID)
                .step("join", "the container's process ids")?,
        }
        let born = clone_sibling(request);
        // The child lives where it was born; going back is for the zygote.
        if !matches!(born, Ok(Child::Myself)) {
            move_into_link_name_space(self.own_pids.as_fd(), Some(LinkNameSpaceType::ProcessID))
                .step("return to", "the agent's process ids")?;
        }
        born.step("make", "process")
    }
}

/// Which namespace of process ids new processes go into.
enum PidNamespace<'a> {
    Same,
    At(&'a Path),
    Of(BorrowedFd<'a>),
}

fn endow(gifts: Vec<OwnedFd>, terminal: Option<crate::container::TerminalSize>) -> Result<Endowment, Refusal> {
    let mut gifts = gifts.into_iter();
    let missing = || Refusal::new(Kind::Internal, "the agent sent too few descriptors");
    let control = gifts.next().ok_or_else(missing)?;
    let streams = match terminal {
        Some(_) => None,
        None => {
            let mut next = || gifts.next().ok_or_else(missing);
            Some([next()?, next()?, next()?])
        }
    };
    Ok(Endowment { control, streams, terminal })
}

fn make_cgroup(cgroup: &Cgroup, plan: &ContainerPlan) -> Result<(), SetupError> {
    cgroup.create().on("make cgroup", cgroup.path())?;
    for limit in &plan.limits {
        if let Err(error) = cgroup.set(limit) {
            let reason = format_args!("{} = {:?} in the guest's cgroup: {error}", limit.file, limit.value);
            return Err(SetupError::spec(&limit.field, reason));
        }
    }
    Ok(())
}

/// Maps the ids of a new user namespace, which its first process can't do itself.
fn map_ids(pid: i32, plan: &ContainerPlan) -> Result<(), SetupError> {
    let linux = plan.linux();
    for (file, field, mappings) in [
        ("uid_map", "linux.uidMappings", linux.and_then(|linux| linux.uid_mappings().as_deref())),
        ("gid_map", "linux.gidMappings", linux.and_then(|linux| linux.gid_mappings().as_deref())),
    ] {
        let line = |map: &LinuxIdMapping| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size());
        let text: String = mappings.unwrap_or_default().iter().map(line).collect();
        std::fs::write(format!("/proc/{pid}/{file}"), text).map_err(|error| SetupError::spec(field, error))?;
    }
    Ok(())
}
