//! The containers the zygote made, and how it makes processes for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::LinuxIdMapping;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::message::{CreateOrder, JoinOrder, Reply};
use crate::cgroup::Cgroup;
use crate::container::{
    ContainerPlan, Endowment, OwnNamespaces, ProcessPlan, Residence, SetupError, Step, Surroundings, limit, run_first,
    run_further,
};
use crate::refusal::{Kind, Refusal};
use crate::sys::{Child, CloneRequest, clone_sibling};

/// Every container that has not been forgotten.
pub(crate) struct Containers {
    cgroup_root: PathBuf,
    own_namespaces: OwnNamespaces,
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
        Ok(Self { cgroup_root, own_namespaces: OwnNamespaces::open()?, known: BTreeMap::new() })
    }

    pub(crate) fn forget(&mut self, container: &str) {
        self.known.remove(container);
    }

    /// Makes a container and its first process.
    pub(crate) fn create(&mut self, mut order: CreateOrder, spec: &[u8], gifts: Vec<OwnedFd>) -> Reply {
        let mut plan = ContainerPlan::parse(spec, &order.devices)?;
        if let Some(network) = order.network.take() {
            plan.namespaces.join_network(network);
        }
        order.terminal = order.terminal.map(|size| size.or_of(&plan.process.process));
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
        let endowment = endow(gifts, order.terminal.map(|size| size.or_of(&plan.process)))?;
        let cgroup = Cgroup::of(&self.cgroup_root, &order.container);
        let directory = File::open(cgroup.path()).on("open cgroup", cgroup.path())?;
        let residence = Residence { leader: known.leader.as_fd(), namespaces: known.namespaces };
        let request = CloneRequest { namespaces: 0, cgroup: directory.as_fd() };
        let process_ids = known.namespaces & libc::CLONE_NEWPID as u64;
        // Only children are moved by joining such a namespace: the zygote joins it for the moment of the birth.
        let enter = || match process_ids {
            0 => Ok(()),
            _ => move_into_thread_name_spaces(residence.leader, ThreadNameSpaceType::PROCESS_ID)
                .step("join", "the container's process ids"),
        };
        let clone = || clone_sibling(&request).step("make", "process");
        match self.own_namespaces.make_away(process_ids, enter, clone)? {
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
        let clone = || clone_sibling(&request).step("make", "process");
        let namespaces = &plan.namespaces;
        let born = self.own_namespaces.make_away(namespaces.joined(), || namespaces.join(), clone)?;
        let Child::Born { pid, handle } = born else {
            drop(mapping);
            let surroundings = Surroundings {
                rootfs: &order.rootfs,
                files: &order.files,
                cgroup: cgroup.path(),
                cgroup_namespace: plan.namespaces.creates(libc::CLONE_NEWCGROUP),
                user_namespace,
                network_namespace: plan.namespaces.creates(libc::CLONE_NEWNET),
                terminal: order.terminal,
            };
            run_first(plan, &surroundings, endowment, user_namespace.then(|| File::from(mapped)));
        };
        if user_namespace {
            map_ids(pid, plan)?;
            limit(Pid::from_raw(pid), &plan.process)?;
        }
        drop(mapping);
        Ok((pid, handle))
    }
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
        limit.set(cgroup.path())?;
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
