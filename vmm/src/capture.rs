//! Writing a running machine down.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use devices::{DeviceError, DeviceSet, layout};
use vmm_api::{FailureKind, MemoryExtent, Pages};

use crate::arch::{StateError, VcpuState, VmState};
use crate::kvm::KvmError;
use crate::machine::Running;
use crate::memory::{self, Origin, PageMap};
use crate::outcome::Outcome;
use crate::state::{MachineState, StateFileError};

/// How long closed connections may take to disappear: the guest answers within microseconds when it runs.
const DISCONNECT_DEADLINE: Duration = Duration::from_secs(2);
const DISCONNECT_POLL: Duration = Duration::from_millis(1);

/// A machine could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A connection to the guest is open.
    #[error("{open} connections to the guest are open; close them before capturing")]
    Connected {
        /// How many.
        open: usize,
    },
    /// The guest ended before it could be captured.
    #[error("the guest ended by itself: {how}")]
    Ended {
        /// How.
        how: String,
    },
    /// The vCPUs did not stop.
    #[error("the vCPUs can't be stopped")]
    Stop(#[source] io::Error),
    /// A device did not stop or can't be saved.
    #[error("a device can't be saved")]
    Device(#[from] DeviceError),
    /// An interrupt may be under way.
    #[error("the interrupts can't be settled")]
    Interrupts(#[source] KvmError),
    /// Processor state can't be read.
    #[error("processor state can't be saved")]
    Processor(#[from] StateError),
    /// The memory file can't be written.
    #[error("guest memory can't be saved")]
    Memory(#[from] memory::CaptureError),
    /// The state file can't be written.
    #[error("the state can't be saved")]
    State(#[from] StateFileError),
}

impl CaptureError {
    /// The kind of failure that the caller is told.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Connected { .. } | Self::Ended { .. } | Self::Device(_) => FailureKind::Invalid,
            Self::Interrupts(_) | Self::Processor(_) => FailureKind::Kvm,
            Self::Stop(_) | Self::Memory(_) | Self::State(_) => FailureKind::Io,
        }
    }
}

/// What a capture wrote.
#[derive(Debug)]
pub struct Captured {
    /// Where the pages of the memory file belong.
    pub extents: Vec<MemoryExtent>,
    /// Size of the state file.
    pub state_bytes: u64,
}

/// Waits until no connection to the guest is left, those that the host closed a moment ago included. The guest runs on
/// if this fails.
pub fn await_disconnected(devices: &DeviceSet) -> Result<(), CaptureError> {
    let deadline = Instant::now() + DISCONNECT_DEADLINE;
    loop {
        match devices.open_connections() {
            0 => return Ok(()),
            open if Instant::now() >= deadline => return Err(CaptureError::Connected { open }),
            _ => std::thread::sleep(DISCONNECT_POLL),
        }
    }
}

/// Stops the machine for good and writes its state and these pages of its memory.
pub fn capture(machine: Running, state: &mut File, memory: &File, pages: Pages) -> Result<Captured, CaptureError> {
    let Running { kvm, vm, ram, origin, vcpus, devices, ports, shape, .. } = machine;
    let vcpus = match vcpus.stop().map_err(CaptureError::Stop)? {
        Ok(vcpus) => vcpus,
        Err(end) => return Err(CaptureError::Ended { how: Outcome::Guest(end).to_string() }),
    };
    devices.quiesce()?;
    let open = devices.open_connections();
    if open > 0 {
        return Err(CaptureError::Connected { open });
    }
    // Raised by the console and not yet noted by the interrupt controller, it would be in neither's state.
    let console = ports.console().interrupt();
    vm.disconnect_interrupt(layout::CONSOLE_GSI, console).map_err(CaptureError::Interrupts)?;
    let states = vcpus.iter().map(|vcpu| VcpuState::save(&kvm, vcpu)).collect::<Result<_, _>>()?;
    let saved = MachineState {
        memory_bytes: shape.memory_bytes,
        vm: VmState::save(&vm, &vcpus)?,
        vcpus: states,
        devices: devices.save()?,
        console: ports.console().save(),
    };
    let state_bytes = saved.write(state)?;
    let before = match pages {
        Pages::All => Origin::default(),
        Pages::Changed => origin,
    };
    let extents = PageMap::scan(&ram, &before)?.write(&ram, memory)?;
    Ok(Captured { extents, state_bytes })
}
