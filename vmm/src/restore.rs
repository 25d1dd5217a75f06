//! Starting from a bake: the path that every container's start takes.

use std::fs::File;
use std::iter;

use devices::{Console, DeviceSet};
use kvm_ioctls::VcpuFd;
use vmm_api::{ControlError, MemoryFile, Packet, Restore};

use crate::arch::{self, StateError, VcpuState};
use crate::machine::{Opened, StartError, Wired};
use crate::memory;
use crate::state::MachineState;
use crate::timeline::Stopwatch;

/// Brings a machine to where the captured guest goes on.
pub fn restore(request: Restore, fds: &mut Packet<()>, stopwatch: Stopwatch) -> Result<Wired, StartError> {
    let state = File::from(fds.take(request.state)?);
    let take = |memory: MemoryFile| Ok((File::from(fds.take(memory.file)?), memory.extents));
    let files = request.memory.into_iter().map(take).collect::<Result<_, ControlError>>()?;
    let opened = Opened::new(request.host, request.shape, &request.disks, fds, stopwatch)?;
    let MachineState { vm, vcpus, devices, console, .. } = MachineState::read(&state, opened.shape())?;
    let mapped = opened.map_files(files)?;
    memory::copy_ahead(&mapped.ram, &request.written);
    restore_vcpus(&vcpus, &mapped.vcpus, request.shape.vcpus)?;
    vm.restore(&mapped.vm, &mapped.vcpus)?;
    for (state, vcpu) in vcpus.iter().zip(&mapped.vcpus) {
        state.arm_timer(vcpu)?;
    }
    arch::begin_generation(&mapped.ram)?;
    arch::announce_generation(&mapped.vm)?;
    mapped.wire(|ram, window, backings, out| {
        Ok((DeviceSet::restore(devices, ram, window, backings)?, Console::restore(console, out)?))
    })
}

/// Lets the vCPUs that were captured go on, and those that the machine has besides wait.
fn restore_vcpus(states: &[VcpuState], vcpus: &[VcpuFd], count: u8) -> Result<(), StateError> {
    let Some(first) = states.first() else { return Ok(()) };
    for ((index, vcpu), state) in (0..).zip(vcpus).zip(states.iter().map(Some).chain(iter::repeat(None))) {
        match state {
            Some(state) => state.restore(vcpu, index, count)?,
            None => first.accompany(vcpu, index, count)?,
        }
    }
    Ok(())
}
