//! The phases of a start, each consumed by the next: a step can't be taken twice or out of order.

use std::fs::File;
use std::io;
use std::sync::Arc;

use devices::{Backings, Console, DeviceError, DeviceSet, FileServer, Window, layout};
use kvm_ioctls::VcpuFd;
use vm_memory::GuestAddress;
use vmm_api::{
    ADDED_MEMORY, ControlError, Disks, FailureKind, Host, MAX_VCPUS, MEMORY_BLOCK_BYTES, MemoryExtent, Network, Packet,
    Shape, Timeline,
};

use crate::arch::{self, GenerationError, KernelError, Ports, StateError};
use crate::jail::{self, FileAccess, JailError};
use crate::kvm::{Kvm, KvmError, Vm};
use crate::memory::{self, ExtentError, Extents, GuestRam, MAX_FILES, MemoryError, Origin};
use crate::seccomp::{self, Role};
use crate::state::StateFileError;
use crate::timeline::Stopwatch;
use crate::vcpu::Vcpus;

/// A VM could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The request lacks a descriptor.
    #[error("the request doesn't bring what it names")]
    Request(#[from] ControlError),
    /// The size is out of range.
    #[error(
        "a machine with {vcpus} vCPUs, {memory_bytes} bytes of memory and {added_bytes} more can't be made: 1 to {MAX_VCPUS} vCPUs, a \
         multiple of 2 MiB from 64 MiB to 1 TiB, and with at most 3 GiB of that a multiple of 128 MiB more are possible"
    )]
    Shape {
        /// Number of vCPUs.
        vcpus: u8,
        /// Memory in bytes.
        memory_bytes: u64,
        /// What is to be added to it, in bytes.
        added_bytes: u64,
    },
    /// The process could not be confined.
    #[error("the VMM can't be confined")]
    Jail(#[from] JailError),
    /// Guest memory.
    #[error("guest memory can't be set up")]
    Memory(#[from] MemoryError),
    /// KVM.
    #[error("the virtual machine can't be made")]
    Kvm(#[from] KvmError),
    /// A stack of memory files that no bake has.
    #[error("{count} memory files can't be restored from: 1 to {MAX_FILES} are possible")]
    MemoryFiles {
        /// How many there are.
        count: usize,
    },
    /// The bake's memory file could not be examined.
    #[error("the bake's memory can't be examined")]
    MemoryFile(#[source] io::Error),
    /// The bake's extents.
    #[error("the bake's memory doesn't fit")]
    Extents(#[from] ExtentError),
    /// The bake's state.
    #[error("the bake's state can't be used")]
    State(#[from] StateFileError),
    /// The bake's processor state.
    #[error("the bake's processor state can't be restored")]
    Processor(#[from] StateError),
    /// The generation id.
    #[error("the machine can't be given a generation id of its own")]
    Generation(#[from] GenerationError),
    /// A device.
    #[error("a device can't be set up")]
    Device(#[from] DeviceError),
    /// The kernel.
    #[error("the kernel can't be loaded")]
    Kernel(#[from] KernelError),
    /// The server of files.
    #[error("files can't be served")]
    Files(#[source] io::Error),
    /// A vCPU thread.
    #[error("a vCPU thread can't be started")]
    Thread(#[source] io::Error),
}

impl StartError {
    /// The kind of failure that the caller is told.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Request(_)
            | Self::Shape { .. }
            | Self::MemoryFiles { .. }
            | Self::Device(DeviceError::Backing { .. }) => FailureKind::Invalid,
            Self::Kvm(_) | Self::Generation(GenerationError::Interrupt(_)) => FailureKind::Kvm,
            Self::Extents(_) | Self::State(_) | Self::Processor(_) | Self::Device(DeviceError::State { .. }) => {
                FailureKind::BadBake
            }
            Self::Kernel(_) => FailureKind::BadKernel,
            Self::Jail(_)
            | Self::Memory(_)
            | Self::MemoryFile(_)
            | Self::Generation(_)
            | Self::Device(_)
            | Self::Files(_)
            | Self::Thread(_) => FailureKind::Io,
        }
    }
}

/// Open files that the process needs for itself: disks, connections, events.
const RESERVED_FILES: u64 = 1024;

/// Whether a machine can have so much memory.
fn memory_fits(shape: Shape) -> bool {
    let Shape { memory_bytes, added_bytes, .. } = shape;
    let all = 64 << 20..=1 << 40;
    let added_fits = added_bytes == 0 || memory_bytes <= 3 << 30 && added_bytes.is_multiple_of(MEMORY_BLOCK_BYTES);
    all.contains(&memory_bytes)
        && all.contains(&shape.total_bytes())
        && memory_bytes.is_multiple_of(2 << 20)
        && added_fits
}

/// Takes the disks' files out of a request.
pub fn backings(disks: &Disks, fds: &mut Packet<()>) -> Result<Backings, ControlError> {
    let mut layers = Vec::with_capacity(disks.layers.len());
    for extent in &disks.layers {
        layers.push((File::from(fds.take(extent.file)?), extent.length));
    }
    let upper = match disks.upper {
        Some(upper) => Some((File::from(fds.take(upper.file)?), upper.length)),
        None => None,
    };
    Ok(Backings { layers, upper, files: None })
}

/// Phase one: everything that was asked for is at hand, the process is confined.
#[derive(Debug)]
pub struct Opened {
    kvm: Kvm,
    shape: Shape,
    console: File,
    backings: Backings,
    stopwatch: Stopwatch,
}

impl Opened {
    /// Takes the descriptors out of the request, enters the network namespace and gives up all privileges.
    pub fn new(
        host: Host,
        shape: Shape,
        disks: &Disks,
        fds: &mut Packet<()>,
        stopwatch: Stopwatch,
    ) -> Result<Self, StartError> {
        let Shape { memory_bytes, added_bytes, vcpus } = shape;
        if !(1..=MAX_VCPUS).contains(&vcpus) || !memory_fits(shape) {
            return Err(StartError::Shape { vcpus, memory_bytes, added_bytes });
        }
        let network = match host.network {
            Network::Inherited => jail::Network::Inherited,
            Network::New => jail::Network::New,
            Network::Of(fd) => jail::Network::Of(fds.take(fd)?),
        };
        let console = File::from(fds.take(host.console)?);
        let kvm = Kvm::open(fds.take(host.kvm)?)?;
        let mut backings = backings(disks, fds)?;
        let access = jail::lock_down(network, host.serves_files)?;
        if let Some(FileAccess { open_files, limit }) = access {
            let limit = limit.saturating_sub(RESERVED_FILES);
            backings.files = Some(FileServer::new("/", open_files.into(), limit).map_err(StartError::Files)?);
        }
        let mut opened = Self { kvm, shape, console, backings, stopwatch };
        opened.stopwatch.timeline.opened_us = opened.stopwatch.elapsed_us();
        Ok(opened)
    }

    /// The machine's size.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `/dev/kvm`.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Makes the VM around zeroed memory.
    pub fn map_empty(self) -> Result<Mapped, StartError> {
        let ram = memory::reserve(&arch::ram_ranges(self.shape))?;
        self.map(ram, Origin::default())
    }

    /// Makes the VM around the memory of bakes that lie over each other, lowest first.
    pub fn map_files(self, files: Vec<(File, Vec<MemoryExtent>)>) -> Result<Mapped, StartError> {
        if files.is_empty() || files.len() > MAX_FILES {
            return Err(StartError::MemoryFiles { count: files.len() });
        }
        let ram = memory::reserve(&arch::ram_ranges(self.shape))?;
        let mut origin = Origin::default();
        for (file, extents) in files {
            let file_bytes = file.metadata().map_err(StartError::MemoryFile)?.len();
            let extents = Extents::validate(extents, file_bytes, &ram)?;
            origin.push(file, extents);
        }
        origin.map(&ram)?;
        self.map(ram, origin)
    }

    fn map(mut self, ram: GuestRam, origin: Origin) -> Result<Mapped, StartError> {
        let mut vm = self.kvm.create_vm()?;
        let window = Window::default();
        vm.map_memory(&ram, &window)?;
        let vcpus = arch::create_vcpus(&vm, self.shape.vcpus)?;
        self.stopwatch.timeline.mapped_us = self.stopwatch.elapsed_us();
        Ok(Mapped { opened: self, vm, ram, origin, window, vcpus })
    }
}

/// Phase two: the VM exists with its memory, interrupt controllers and blank vCPUs.
#[derive(Debug)]
pub struct Mapped {
    opened: Opened,
    /// The VM.
    pub vm: Vm,
    /// Its memory.
    pub ram: GuestRam,
    origin: Origin,
    /// Its devices' registers.
    window: Window,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuFd>,
}

impl Mapped {
    /// `/dev/kvm`.
    pub fn kvm(&self) -> &Kvm {
        &self.opened.kvm
    }

    /// The memory that the kernel finds when it boots: without what it is told of later.
    pub fn ram_at_boot(&self) -> Result<GuestRam, StartError> {
        let bytes = self.opened.shape.added_bytes;
        if bytes == 0 {
            return Ok(self.ram.clone());
        }
        let (rest, _added) =
            self.ram.remove_region(GuestAddress(ADDED_MEMORY), bytes).map_err(|_none| MemoryError::Ranges)?;
        Ok(rest)
    }

    /// Adds the devices that `make` returns and connects them. The vCPUs and the interrupt controllers must be in
    /// their final state: an interrupt that a device raises would otherwise be lost.
    pub fn wire<F>(self, make: F) -> Result<Wired, StartError>
    where
        F: FnOnce(GuestRam, &Window, Backings, File) -> Result<(DeviceSet, Console), DeviceError>,
    {
        let Self { opened, vm, ram, origin, window, vcpus } = self;
        let Opened { kvm, shape, console, backings, mut stopwatch } = opened;
        let (devices, console) = make(ram.clone(), &window, backings, console)?;
        vm.connect_interrupt(layout::CONSOLE_GSI, console.interrupt())?;
        devices.connect_interrupts(|gsi| Arc::new(vm.line(gsi)));
        for slot in devices.slots_at_start() {
            connect(&vm, &devices, slot)?;
        }
        stopwatch.timeline.wired_us = stopwatch.elapsed_us();
        Ok(Wired { kvm, vm, ram, origin, vcpus, devices, ports: Ports::new(console), shape, stopwatch })
    }
}

/// Phase three: everything is in place.
#[derive(Debug)]
pub struct Wired {
    kvm: Kvm,
    vm: Vm,
    ram: GuestRam,
    origin: Origin,
    vcpus: Vec<VcpuFd>,
    devices: DeviceSet,
    ports: Ports,
    shape: Shape,
    stopwatch: Stopwatch,
}

impl Wired {
    /// Lets devices and vCPUs go.
    pub fn run(self) -> Result<Running, StartError> {
        let Self { kvm, vm, ram, origin, vcpus, devices, ports, shape, mut stopwatch } = self;
        devices.start(|| seccomp::confine_or_end(Role::Worker), || seccomp::confine_or_end(Role::Files))?;
        let (devices, ports) = (Arc::new(devices), Arc::new(ports));
        let vcpus = Vcpus::start(vcpus, Arc::clone(&devices), Arc::clone(&ports)).map_err(StartError::Thread)?;
        stopwatch.timeline.running_us = stopwatch.elapsed_us();
        Ok(Running { kvm, vm, ram, origin, vcpus, devices, ports, shape, timeline: stopwatch.timeline })
    }
}

/// Connects the events of a slot.
fn connect(vm: &Vm, devices: &DeviceSet, slot: usize) -> Result<(), KvmError> {
    for (address, value, event) in devices.notifiers(slot) {
        vm.connect_notifier(address, value, event)?;
    }
    Ok(())
}

/// Phase four: the guest runs.
#[derive(Debug)]
pub struct Running {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// The VM.
    pub vm: Vm,
    /// Its memory.
    pub ram: GuestRam,
    /// What that was at first.
    pub origin: Origin,
    /// Its vCPUs' threads.
    pub vcpus: Vcpus,
    /// Its virtio devices.
    pub devices: Arc<DeviceSet>,
    /// Its ports.
    pub ports: Arc<Ports>,
    /// Its size.
    pub shape: Shape,
    /// How long the start took.
    pub timeline: Timeline,
}

impl Running {
    /// Connects a network card to a tap device.
    pub fn attach_network(&self, card: usize, tap: File) -> Result<(), AttachError> {
        if let Some(slot) = self.devices.slot_to_connect(card) {
            connect(&self.vm, &self.devices, slot).map_err(AttachError::Connect)?;
        }
        self.devices.attach_network(card, tap).map_err(AttachError::Device)
    }
}

/// A network card can't be connected.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Its events.
    #[error("the network card's events can't be connected")]
    Connect(#[source] KvmError),
    /// The card.
    #[error(transparent)]
    Device(DeviceError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_can_t_be_laid_out_is_refused() {
        let fits = |mebibytes: u64, added: u64| {
            memory_fits(Shape { memory_bytes: mebibytes << 20, added_bytes: added << 20, vcpus: 1 })
        };
        assert!(fits(64, 0) && fits(256, 128) && fits(3072, 1024) && fits(1 << 20, 0));
        assert!(!fits(62, 0) && !fits(65, 0) && !fits(256, 64) && !fits(4096, 128) && !fits(256, 1 << 20));
        assert!(!memory_fits(Shape { memory_bytes: 256 << 20, added_bytes: u64::MAX << 27, vcpus: 1 }));
    }
}
