//! Starting from a bake: the path that every container's start takes.

use std::fs::File;

use devices::{Console, DeviceSet};
use vmm_api::{Packet, Restore};

use crate::arch;
use crate::machine::{Opened, StartError, Wired};
use crate::state::MachineState;
use crate::timeline::Stopwatch;

/// Brings a machine to where the captured guest goes on.
pub fn restore(request: Restore, fds: &mut Packet<()>, stopwatch: Stopwatch) -> Result<Wired, StartError> {
    let state = File::from(fds.take(request.state)?);
    let memory = File::from(fds.take(request.memory)?);
    let opened = Opened::new(request.host, request.shape, &request.disks, fds, stopwatch)?;
    let MachineState { vm, vcpus, devices, console, .. } = MachineState::read(&state, opened.shape())?;
    let mapped = opened.map_file(&memory, request.extents)?;
    for (state, vcpu) in vcpus.iter().zip(&mapped.vcpus) {
        state.restore(vcpu)?;
    }
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
