//! The language that a VMM process is commanded in.
//!
//! One `SOCK_SEQPACKET` socket, inherited as the VMM's standard input, carries [`Request`]s with their file
//! descriptors one way and exactly one [`Reply`] per request, in order, the other way. Requests may be pipelined:
//! a caller that wants to connect to the guest's agent sends [`Request::Restore`] and [`Request::Connect`] back to
//! back. The VMM never opens a path: whatever it needs arrives here.
#![forbid(unsafe_code)]

mod socket;

pub use socket::{ControlError, ControlSocket, Packet};

use serde::{Deserialize, Serialize};

/// Largest encoded message, in bytes. A layer disk of 250 extents encodes to about 4 KiB.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Most descriptors in one message (`SCM_MAX_FD`, `unix(7)`).
pub const MAX_FDS: usize = 253;

/// The guest's context id on its virtual socket.
pub const GUEST_CID: u64 = 3;
/// Port on which the agent serves ttrpc.
pub const AGENT_PORT: u32 = 1024;
/// Port on which the agent accepts stdio streams.
pub const STREAM_PORT: u32 = 1025;
/// Number of network cards of a machine: so many interfaces its guest can have.
pub const CARDS: usize = 4;
/// Host port that the agent tries to connect to, once, when it listens ("knock"). The device refuses it and from
/// then on delivers connections to the guest.
pub const READY_PORT: u32 = 1024;

/// Most virtual CPUs of a machine.
pub const MAX_VCPUS: u8 = 64;

/// Exit codes of the VMM process.
pub mod exit_code {
    /// Told to stop, or the control socket was closed.
    pub const STOPPED: i32 = 0;
    /// The guest powered off, reset or halted.
    pub const GUEST_GONE: i32 = 10;
    /// The guest could not be run any further (triple fault, KVM error).
    pub const GUEST_CRASHED: i32 = 11;
    /// The VM could not be started; the reply said why.
    pub const START_FAILED: i32 = 12;
    /// A fault of the VMM itself.
    pub const INTERNAL: i32 = 13;
}

/// Position of a descriptor among those that arrived with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fd(pub u8);

/// Memory that a running machine takes in comes in blocks of so many bytes: what x86 kernels with less than 64 GiB of
/// memory at boot count it in (`memory_block_size_bytes`).
pub const MEMORY_BLOCK_BYTES: u64 = 128 << 20;
/// Guest physical address from which on that memory is, above the windows of devices.
pub const ADDED_MEMORY: u64 = 4 << 30;

/// Size of a virtual machine. Its memory and what CPUs it has room for are part of the machine key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Guest memory that is there at boot, in bytes; a multiple of 2 MiB, at least 64 MiB. Part of the machine key.
    pub memory_bytes: u64,
    /// Guest memory that the kernel is told of later, from [`ADDED_MEMORY`] on; a multiple of [`MEMORY_BLOCK_BYTES`], and
    /// none with more than 3 GiB at boot. Machines that differ in it alone are restored from the same bakes.
    pub added_bytes: u64,
    /// Virtual CPUs, 1 to 64. A guest boots on the first of them; the others wait until it brings them up.
    pub vcpus: u8,
}

impl Shape {
    /// Guest memory in bytes, sooner or later.
    pub fn total_bytes(&self) -> u64 {
        self.memory_bytes.saturating_add(self.added_bytes)
    }

    /// Virtual CPUs that its guest has room for, which is no less than it has: all that one bake serves.
    ///
    /// A Linux guest sets 180 KiB aside for each when it boots, and more for each cgroup and network namespace: room for
    /// 64 takes 12 MiB of every guest. Few are that large, so those have bakes of their own.
    #[must_use]
    pub fn room(self) -> u8 {
        const USUAL: u8 = 8;
        if self.vcpus <= USUAL { USUAL } else { MAX_VCPUS }
    }
}

/// One squashfs file on the layer disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The file, opened read-only.
    pub file: Fd,
    /// Its length in bytes. On the disk it is padded with zeros to a multiple of 4096.
    pub length: u64,
}

/// A writable raw disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// The image, opened read-write.
    pub file: Fd,
    /// Capacity in bytes, a multiple of 512.
    pub length: u64,
}

/// What stands behind the two block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// The layer disk's extents in order; empty leaves a disk of one zeroed sector.
    pub layers: Vec<Extent>,
    /// The upper disk; `None` leaves a disk of one zeroed sector.
    pub upper: Option<Upper>,
}

/// Descriptors that every start needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// `/dev/kvm`.
    pub kvm: Fd,
    /// Where the guest's serial console is written (append).
    pub console: Fd,
    /// Whose network the process has.
    pub network: Network,
    /// Whether it serves files. Then the process keeps what rights that takes, in a root directory that holds nothing
    /// else: what is mounted there, from outside, is shared with the guest. Root only.
    pub serves_files: bool,
}

/// Whose network a VMM has, which is what hooks find through its process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// That of whoever started it.
    Inherited,
    /// One of its own, in which nothing is configured.
    New,
    /// That of a network namespace, entered before anything else.
    Of(Fd),
}

/// Boots a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Host descriptors.
    pub host: Host,
    /// Size of the machine.
    pub shape: Shape,
    /// ELF `vmlinux`.
    pub kernel: Fd,
    /// Initial ramdisk holding the agent as `/init`.
    pub initrd: Fd,
    /// Kernel command line.
    pub cmdline: String,
    /// Disks.
    pub disks: Disks,
}

/// Restores a bake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// Host descriptors.
    pub host: Host,
    /// Size of the machine, as the bake's manifest states it.
    pub shape: Shape,
    /// The bake's `state` file (read-only).
    pub state: Fd,
    /// The bake's `memory` file, after those of the bakes that it lies over, lowest first.
    pub memory: Vec<MemoryFile>,
    /// Pages that the guest is known to write to at once: they are copied before it runs.
    pub written: Vec<PageRun>,
    /// Disks.
    pub disks: Disks,
}

/// A bake's `memory` file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFile {
    /// The file (read-only), mapped privately.
    pub file: Fd,
    /// Where its pages belong.
    pub extents: Vec<MemoryExtent>,
}

/// A run of guest pages (4096 bytes each) and its place in a memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryExtent {
    /// First guest page number (guest physical address / 4096).
    pub guest_page: u64,
    /// First page in the file.
    pub file_page: u64,
    /// Number of pages.
    pub pages: u64,
}

/// Consecutive guest pages (4096 bytes each).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRun {
    /// First guest page number (guest physical address / 4096).
    pub guest_page: u64,
    /// Number of pages.
    pub pages: u64,
}

/// What the VMM can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Say what restored guests depend on here. Leaves no VM behind; may be asked in any state.
    Describe {
        /// `/dev/kvm`.
        kvm: Fd,
    },
    /// Start by booting. Only as the first request.
    Boot(Boot),
    /// Start by restoring. Only as the first request.
    Restore(Restore),
    /// Connect the attached stream socket to a port of the guest. Replied at once; a refusal shows as end of file.
    Connect {
        /// The guest's port.
        port: u32,
        /// Our end of a `SOCK_STREAM` socket pair.
        stream: Fd,
    },
    /// Add files to the disks of the running VM, for a further container.
    AttachDisks {
        /// Layers, added at the end of the layer disk, each at the next multiple of 4096, and an image.
        disks: Disks,
        /// Where the image begins on the upper disk, a multiple of 4096 from which on nothing is.
        upper_start: u64,
    },
    /// Put a block device of the host on the upper disk of the running VM.
    AttachDevice {
        /// The device, opened for reading, and for writing unless it is read-only.
        device: Fd,
        /// Its length in bytes, a multiple of 512.
        length: u64,
        /// Whether what the guest writes to it fails.
        read_only: bool,
        /// Where it begins on the disk, a multiple of 4096 from which on nothing is.
        start: u64,
    },
    /// Take an image or a device away from the upper disk, whose place is free then. The guest no longer uses it.
    DetachUpper {
        /// Where it begins.
        start: u64,
    },
    /// Connect a network card to a tap device; it has none. The guest sees its link come up.
    AttachNetwork {
        /// Which card, below [`CARDS`].
        card: u8,
        /// The tap: not blocking, with `IFF_VNET_HDR`; checksums and the segmentation of TCP and UDP may be left to the
        /// guest (`TUNSETOFFLOAD`).
        tap: Fd,
    },
    /// Take its tap away from a network card. The guest sees its link go down.
    DetachNetwork {
        /// Which card.
        card: u8,
    },
    /// Copy pages that the running guest is known to write to soon.
    CopyAhead {
        /// Which.
        pages: Vec<PageRun>,
    },
    /// Say which pages of the bake the running guest has written something else to by now: at most so many runs of them.
    ListWritten {
        /// How many.
        most: usize,
    },
    /// Pause for good and write device state and memory to the attached files; the VM does not run again.
    Capture {
        /// Receives the state, empty on entry, writable.
        state: Fd,
        /// Receives the packed pages, empty on entry, writable.
        memory: Fd,
        /// Which those are.
        pages: Pages,
    },
    /// Destroy the VM and exit.
    Shutdown,
}

/// The pages of a guest's memory that a capture writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// All that aren't zero: a bake that stands alone.
    All,
    /// Those that aren't as they were before the VM's first instruction: a bake over what it was restored from.
    Changed,
}

/// What a captured guest depends on and only the VMM can tell. Part of the machine key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// CPU vendor as CPUID spells it, for example `AuthenticAMD`.
    pub vendor: String,
    /// CPU family (extended family added).
    pub family: u32,
    /// CPU model (extended model added).
    pub model: u32,
    /// CPU stepping.
    pub stepping: u32,
    /// SHA-256 over the CPUID and MSR template that guests are given.
    pub cpuid_hash: [u8; 32],
    /// Frequency of the guest's time stamp counter in kHz.
    pub tsc_khz: u32,
    /// `KVM_GET_API_VERSION`.
    pub kvm_api_version: u32,
    /// Version of the device layout (slots, addresses, interrupts, state).
    pub device_layout: u32,
}

/// Time spent in each phase of a start, in microseconds since the VMM process began (`CLOCK_MONOTONIC`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// The request was decoded and its files checked.
    pub opened_us: u64,
    /// Guest memory was mapped.
    pub mapped_us: u64,
    /// Devices, interrupt lines and vCPU state were in place.
    pub wired_us: u64,
    /// The first vCPU was let go.
    pub running_us: u64,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// What this machine and this VMM are.
    Described(MachineFacts),
    /// The VM runs.
    Running(Timeline),
    /// A connection attempt is under way.
    Connecting,
    /// The files, or the network card, are attached.
    Attached,
    /// The file, or the tap, is no longer attached.
    Detached,
    /// The bake's two files are complete (not yet synced).
    Captured {
        /// Where the pages of the memory file belong, ordered by guest page.
        extents: Vec<MemoryExtent>,
        /// Size of the state file in bytes.
        state_bytes: u64,
    },
    /// The pages are copied, as far as that can be done.
    Copied,
    /// Pages that the guest has written to, in rising order.
    Written {
        /// Which.
        runs: Vec<PageRun>,
    },
    /// The VMM is about to exit.
    Stopping,
    /// The request failed.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of fault it is, so that a caller can decide without reading the text.
    pub kind: FailureKind,
    /// The chain of causes, outermost first, joined by `: `.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request makes no sense in this state or is malformed.
    Invalid,
    /// `/dev/kvm` lacks something that is needed, or refused.
    Kvm,
    /// The bake's state doesn't decode or doesn't fit this machine: boot cold instead.
    BadBake,
    /// The kernel or initial ramdisk can't be loaded.
    BadKernel,
    /// Input or output failed (a full disk, say).
    Io,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_room_for_every_cpu_and_machines_of_usual_size_have_the_same() {
        let room = |vcpus| Shape { memory_bytes: 64 << 20, added_bytes: 0, vcpus }.room();
        assert!((1..=MAX_VCPUS).all(|vcpus| (vcpus..=MAX_VCPUS).contains(&room(vcpus))));
        assert!((1..=8).all(|vcpus| room(vcpus) == room(1)));
    }
}
