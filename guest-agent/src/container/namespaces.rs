//! The namespaces a container gets: new ones, existing ones, or the guest's.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::{SetupError, Step};
use crate::sys::{self, Child};

/// Clocks that a time namespace can move.
const CLOCKS: [&str; 2] = ["monotonic", "boottime"];

/// What `linux.namespaces` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW*` flags of namespaces to create.
    created: u64,
    /// Existing ones to join, by the path of their handle.
    joined: Vec<(u64, PathBuf)>,
    /// Clocks of a new time namespace, as `/proc/self/timens_offsets` takes them.
    offsets: Vec<String>,
}

impl Namespaces {
    /// Reads and checks the list of a spec and what depends on it.
    pub(crate) fn from_spec(linux: &Linux) -> Result<Self, SetupError> {
        let mut namespaces = Self::default();
        for (index, entry) in linux.namespaces().iter().flatten().enumerate() {
            namespaces.add(index, entry)?;
        }
        if namespaces.creates(libc::CLONE_NEWUSER) {
            for (name, mappings) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
                if mappings.as_deref().unwrap_or_default().is_empty() {
                    return Err(SetupError::spec(format!("linux.{name}"), "a new user namespace needs mappings"));
                }
            }
        }
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            let field = || format!("linux.timeOffsets[{clock:?}]");
            if !namespaces.creates(libc::CLONE_NEWTIME) {
                return Err(SetupError::spec(field(), "needs a new time namespace"));
            }
            if !CLOCKS.contains(&clock.as_str()) {
                return Err(SetupError::spec(field(), format_args!("is none of {CLOCKS:?}")));
            }
            let (seconds, nanoseconds) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            namespaces.offsets.push(format!("{clock} {seconds} {nanoseconds}"));
        }
        Ok(namespaces)
    }

    fn add(&mut self, index: usize, entry: &LinuxNamespace) -> Result<(), SetupError> {
        let flag = flag(entry.typ());
        let field = || format!("linux.namespaces[{index}] ({})", entry.typ());
        if self.separate() & flag != 0 {
            return Err(SetupError::spec(field(), "named twice"));
        }
        match entry.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => self.created |= flag,
            Some(_) if flag == libc::CLONE_NEWUSER as u64 => {
                return Err(SetupError::spec(
                    field(),
                    "an existing user namespace can't be joined; leave the path out",
                ));
            }
            Some(path) if !path.exists() => {
                return Err(SetupError::spec(field(), format_args!("no such path in the guest: {}", path.display())));
            }
            Some(path) => self.joined.push((flag, path.clone())),
        }
        Ok(())
    }

    /// Joins a network namespace, unless the spec asks for one.
    pub(crate) fn join_network(&mut self, path: PathBuf) {
        let flag = libc::CLONE_NEWNET as u64;
        if self.separate() & flag == 0 {
            self.joined.push((flag, path));
        }
    }

    /// Flags for clone. Two kinds aren't among them, because the container's first process has to make them itself: the
    /// root of a cgroup namespace is the cgroup of its maker, and clocks can't be moved once somebody lives by them.
    pub(crate) fn clone_flags(&self) -> u64 {
        self.created & !((libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME) as u64)
    }

    /// Makes those two and moves this process into them, and into an existing cgroup namespace.
    pub(crate) fn unshare(&self) -> Result<(), SetupError> {
        self.join_some(|flag| !self.is_joined_before(flag))?;
        if self.creates(libc::CLONE_NEWCGROUP) {
            sys::unshare(libc::CLONE_NEWCGROUP).step("make", "cgroup namespace")?;
        }
        if self.creates(libc::CLONE_NEWTIME) {
            sys::unshare(libc::CLONE_NEWTIME).step("make", "time namespace")?;
            for offset in &self.offsets {
                std::fs::write("/proc/self/timens_offsets", offset).step("set linux.timeOffsets to", offset)?;
            }
            let handle = File::open("/proc/self/ns/time_for_children").step("open", "time namespace")?;
            move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Time)).step("enter", "time namespace")?;
        }
        Ok(())
    }

    /// Whether a namespace of this `CLONE_NEW*` kind is created.
    pub(crate) fn creates(&self, flag: i32) -> bool {
        self.created & flag as u64 != 0
    }

    /// `CLONE_NEW*` flags of the existing ones to join.
    pub(crate) fn joined(&self) -> u64 {
        self.joined.iter().fold(0, |flags, (flag, _)| flags | flag)
    }

    /// `CLONE_NEW*` flags of every namespace that isn't the guest's own.
    pub(crate) fn separate(&self) -> u64 {
        self.created | self.joined()
    }

    /// Moves this process into the existing namespaces; into the one for process ids only its children go. It must be in
    /// them before it gets a user namespace of its own, in which it may join no others.
    pub(crate) fn join(&self) -> Result<(), SetupError> {
        self.join_some(|flag| self.is_joined_before(flag))
    }

    /// Whether a namespace is joined before the container's first process is born. That into a cgroup isn't if it can be
    /// helped: from there no child can be put into a cgroup outside (`nsdelegate` of cgroups(7)).
    fn is_joined_before(&self, flag: u64) -> bool {
        flag != libc::CLONE_NEWCGROUP as u64 || self.creates(libc::CLONE_NEWUSER)
    }

    fn join_some(&self, is_wanted: impl Fn(u64) -> bool) -> Result<(), SetupError> {
        for (flag, path) in self.joined.iter().filter(|(flag, _)| is_wanted(*flag)) {
            let handle = File::open(path).on("open namespace", path)?;
            move_into_link_name_space(handle.as_fd(), link_type(*flag)).on("join namespace", path)?;
        }
        Ok(())
    }
}

/// The namespaces of whoever makes containers, to come back to.
pub(crate) struct OwnNamespaces {
    handles: Vec<(u64, File)>,
}

impl OwnNamespaces {
    /// Those of this process.
    pub(crate) fn open() -> io::Result<Self> {
        let open = |(flag, name, _): &(i32, &str, LinkNameSpaceType)| {
            Ok((*flag as u64, File::open(Path::new("/proc/self/ns").join(name))?))
        };
        Ok(Self { handles: JOINABLE.iter().map(open).collect::<io::Result<_>>()? })
    }

    /// Makes a child while this process, which has a single thread, is away in other namespaces of these `CLONE_NEW*`
    /// kinds, where `enter` brings it; only the parent comes back.
    pub(crate) fn make_away(
        &self,
        kinds: u64,
        enter: impl FnOnce() -> Result<(), SetupError>,
        make: impl FnOnce() -> Result<Child, SetupError>,
    ) -> Result<Child, SetupError> {
        let born = enter().and_then(|()| make());
        if !matches!(born, Ok(Child::Myself)) {
            for (flag, handle) in self.handles.iter().filter(|(flag, _)| kinds & flag != 0) {
                move_into_link_name_space(handle.as_fd(), link_type(*flag))
                    .step("return to", "the agent's namespaces")?;
            }
        }
        born
    }
}

/// Kinds that can be joined one at a time: `CLONE_NEW*` flag, name in `/proc/<pid>/ns`, type.
const JOINABLE: [(i32, &str, LinkNameSpaceType); 6] = [
    (libc::CLONE_NEWCGROUP, "cgroup", LinkNameSpaceType::ControlGroup),
    (libc::CLONE_NEWUTS, "uts", LinkNameSpaceType::HostNameAndNISDomainName),
    (libc::CLONE_NEWIPC, "ipc", LinkNameSpaceType::InterProcessCommunication),
    (libc::CLONE_NEWNET, "net", LinkNameSpaceType::Network),
    (libc::CLONE_NEWTIME, "time", LinkNameSpaceType::Time),
    (libc::CLONE_NEWPID, "pid", LinkNameSpaceType::ProcessID),
];

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
    JOINABLE.into_iter().find_map(|(known, _, kind)| (known as u64 == flag).then_some(kind))
}
