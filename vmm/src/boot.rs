//! Starting by booting a kernel.

use std::fs::File;

use devices::{Console, DeviceSet};
use vmm_api::{Boot, Packet};

use crate::arch::{self, Template};
use crate::machine::{Opened, StartError, Wired};
use crate::timeline::Stopwatch;

/// Brings a machine to where its kernel's first instruction can run.
pub fn boot(request: &Boot, fds: &mut Packet<()>, stopwatch: Stopwatch) -> Result<Wired, StartError> {
    let kernel = File::from(fds.take(request.kernel)?);
    let initrd = File::from(fds.take(request.initrd)?);
    let opened = Opened::new(request.host, request.shape, &request.disks, fds, stopwatch)?;
    opened.kvm().check_capabilities()?;
    let mapped = opened.map_empty()?;
    let template = Template::of_host(mapped.kvm())?;
    for (index, vcpu) in (0..).zip(&mapped.vcpus) {
        template.apply(vcpu, index, request.shape.vcpus)?;
    }
    if let Some(first) = mapped.vcpus.first() {
        arch::load_kernel(&mapped.ram_at_boot()?, first, kernel, initrd, &request.cmdline, request.shape.room())?;
    }
    arch::begin_generation(&mapped.ram)?;
    mapped.wire(|ram, window, backings, console| Ok((DeviceSet::new(ram, window, backings)?, Console::new(console)?)))
}
