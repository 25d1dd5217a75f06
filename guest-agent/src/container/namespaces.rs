//! The namespaces a container gets: new ones, existing ones, or the guest's.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{SetupError, Step};

/// What `linux.namespaces` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` flags of namespaces to create.
    created: u64,
    /// Existing ones to join, by the path of their handle.
    joined: Vec<(u64, PathBuf)>,
}

impl Namespaces {
    /// Reads the list of a spec.
    pub(crate) fn from_spec(list: &[LinuxNamespace]) -> Result<Self, SetupError> {
        let mut namespaces = Self::default();
        for (index, entry) in list.iter().enumerate() {
            let flag = flag(entry.typ());
            let field = || format!("linux.namespaces[{index}] ({})", entry.typ());
            if namespaces.separate() & flag != 0 {
                return Err(SetupError::spec(field(), "named twice"));
            }
            match entry.path() {
                None if flag == libc::CLONE_NEWTIME as u64 => {
                    return Err(SetupError::spec(field(), "new time namespaces aren't supported; leave the entry out"));
                }
                None => namespaces.created |= flag,
                Some(_) if flag == libc::CLONE_NEWUSER as u64 => {
                    return Err(SetupError::spec(
                        field(),
                        "an existing user namespace can't be joined; leave the path out",
                    ));
                }
                Some(path) if !path.exists() => {
                    return Err(SetupError::spec(
                        field(),
                        format_args!("no such path in the guest: {}", path.display()),
                    ));
                }
                Some(path) => namespaces.joined.push((flag, path.clone())),
            }
        }
        Ok(namespaces)
    }

    /// Flags for clone. The cgroup namespace isn't among them: its root is the cgroup of the process that makes it, so
    /// the container's first process has to make it itself.
    pub(crate) fn clone_flags(&self) -> u64 {
        self.created & !(libc::CLONE_NEWCGROUP as u64)
    }

    /// Whether a namespace of this `CLONE_NEW*` kind is created.
    pub(crate) fn creates(&self, flag: i32) -> bool {
        self.created & flag as u64 != 0
    }

    /// `CLONE_NEW*` flags of every namespace that isn't the guest's own.
    pub(crate) fn separate(&self) -> u64 {
        self.joined.iter().fold(self.created, |flags, (flag, _)| flags | flag)
    }

    /// The path of the process id namespace to join, which has to happen before the process is made.
    pub(crate) fn joined_pid(&self) -> Option<&PathBuf> {
        self.joined.iter().find(|(flag, _)| *flag == libc::CLONE_NEWPID as u64).map(|(_, path)| path)
    }

    /// Moves this process into the existing namespaces, except the one for process ids.
    pub(crate) fn join(&self) -> Result<(), SetupError> {
        for (flag, path) in self.joined.iter().filter(|(flag, _)| *flag != libc::CLONE_NEWPID as u64) {
            let handle = File::open(path).on("open namespace", path)?;
            move_into_link_name_space(handle.as_fd(), link_type(*flag)).on("join namespace", path)?;
        }
        Ok(())
    }
}

fn flag(kind: LinuxNamespaceType) -> u64 {
    (match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }) as u64
}

fn link_type(flag: u64) -> Option<LinkNameSpaceType> {
    [
        (libc::CLONE_NEWNS, LinkNameSpaceType::Mount),
        (libc::CLONE_NEWCGROUP, LinkNameSpaceType::ControlGroup),
        (libc::CLONE_NEWUTS, LinkNameSpaceType::HostNameAndNISDomainName),
        (libc::CLONE_NEWIPC, LinkNameSpaceType::InterProcessCommunication),
        (libc::CLONE_NEWNET, LinkNameSpaceType::Network),
        (libc::CLONE_NEWTIME, LinkNameSpaceType::Time),
    ]
    .into_iter()
    .find_map(|(known, kind)| (known as u64 == flag).then_some(kind))
}
