//! Block devices of the host. Each is a part of the upper disk, and a container has that part's device under the path
//! and with the rules that the host's has in its spec.

use std::fs::File;
use std::os::fd::AsFd;

use agent_proto::BlockDevice;
use rustix::fs::{major, minor, stat};

use super::rootfs::{RootfsError, io, is_run_of_sectors};
use super::uppers::{Upper, Uppers};
use crate::container::{DeviceNumber, HostDevice};
use crate::sys::set_read_only;

/// Makes the parts of the disk devices, and answers their numbers.
pub(super) async fn attach(uppers: &Uppers, devices: &[BlockDevice]) -> Result<Vec<HostDevice>, RootfsError> {
    let mut attached = Vec::with_capacity(devices.len());
    for (index, device) in devices.iter().enumerate() {
        check(index, device)?;
        if uppers.is_given(device.offset_bytes) {
            return Err(RootfsError::UpperInUse);
        }
        let part = uppers.find(device.offset_bytes, device.length_bytes).await?;
        if device.read_only {
            protect(&part)?;
        }
        let host = DeviceNumber { major: device.major, minor: device.minor };
        attached.push(HostDevice { host, guest: number(&part)? });
    }
    Ok(attached)
}

fn check(index: usize, device: &BlockDevice) -> Result<(), RootfsError> {
    let (offset, length) = (device.offset_bytes, device.length_bytes);
    if is_run_of_sectors(offset, length) { Ok(()) } else { Err(RootfsError::BadDevice { index, offset, length }) }
}

fn protect(part: &Upper) -> Result<(), RootfsError> {
    let path = part.device();
    let device = File::open(&path).map_err(io("open", &path))?;
    set_read_only(device.as_fd()).map_err(io("make read-only", path))
}

fn number(part: &Upper) -> Result<DeviceNumber, RootfsError> {
    let path = part.device();
    let number = stat(&path).map_err(|error| io("look at", path)(error.into()))?.st_rdev;
    Ok(DeviceNumber { major: major(number), minor: minor(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_whole_sectors_are_a_device() {
        for (offset_bytes, length_bytes) in [(0, 0), (1, 512), (0, 100), (u64::MAX - 511, 1024)] {
            let device = BlockDevice { offset_bytes, length_bytes, ..Default::default() };
            let refused = attach(&Uppers::default(), &[device]).await;
            assert!(matches!(refused, Err(RootfsError::BadDevice { index: 0, .. })), "{refused:?}");
        }
    }
}
