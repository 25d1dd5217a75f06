//! Block devices of the host in a running VM: they come for a container, and go with it.

use agent_proto::BlockDevice;
use vmm_api::{Reply, Request};

use super::Vm;
use super::attach::{DetachError, detach_at};
use crate::disks::{DeviceError, HostDevices, MAX_PARTS, OpenedDevice};
use crate::launch::Attachments;

pub(super) async fn attach(vm: &Vm, devices: HostDevices) -> Result<Vec<BlockDevice>, DeviceError> {
    let mut attached = Vec::with_capacity(devices.0.len());
    for device in devices.0 {
        match attach_one(vm, &device).await {
            Ok(device) => attached.push(device),
            Err(error) => {
                // No container was told of those before; what can't be taken back stays until the VM's end.
                let _kept = detach(vm, &attached).await;
                return Err(error);
            }
        }
    }
    Ok(attached)
}

async fn attach_one(vm: &Vm, device: &OpenedDevice) -> Result<BlockDevice, DeviceError> {
    let OpenedDevice { path, number, file, bytes, writable } = device;
    let mut places = vm.places.lock().await;
    // Noted before it is asked for: if nobody waits for the answer, nothing else is put there.
    let start = places.put_device(*bytes);
    let start = start.ok_or_else(|| DeviceError::Full { path: path.clone(), limit: MAX_PARTS })?;
    let mut attachments = Attachments::default();
    let request =
        Request::AttachDevice { device: attachments.attach(file), length: *bytes, read_only: !writable, start };
    let attached = vm.ask(&request, &attachments, &Reply::Attached).await;
    attached.map_err(|source| {
        places.leave(start);
        DeviceError::Vmm { path: path.clone(), source }
    })?;
    Ok(BlockDevice {
        offset_bytes: start,
        length_bytes: *bytes,
        read_only: !writable,
        major: number.major,
        minor: number.minor,
        ..Default::default()
    })
}

pub(super) async fn detach(vm: &Vm, devices: &[BlockDevice]) -> Result<(), DetachError> {
    let mut detached = Ok(());
    for device in devices {
        // One that is kept is no reason to keep the others.
        detached = detached.and(detach_at(vm, device.offset_bytes).await);
    }
    detached
}
