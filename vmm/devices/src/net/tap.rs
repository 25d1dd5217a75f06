//! The host's end of the wire.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::ring::Buffers;
use crate::sys;

/// A tap device, opened without waiting. Its frames carry `struct virtio_net_hdr` (`TUNSETVNETHDRSZ`'s default): the
/// driver's header without its last field, the number of places, which is the card's own affair.
#[derive(Debug)]
pub(super) struct Tap(File);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is gone: sent, or refused for good, as a wire loses frames.
    Gone,
    /// The host takes no more for now.
    Busy,
}

impl Tap {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Takes the next frame, with room for the number of places in its header; none if there is none, or never will be
    /// because the device was removed.
    pub(super) fn receive(&self, frame: &mut [u8]) -> Option<usize> {
        loop {
            let (header, rest) = frame.split_at_mut(super::NUM_BUFFERS.start);
            let rest = rest.get_mut(super::NUM_BUFFERS.len()..)?;
            match rustix::io::readv(&self.0, &mut [IoSliceMut::new(header), IoSliceMut::new(rest)]) {
                Ok(bytes) => return Some(bytes + super::NUM_BUFFERS.len()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return None,
                Err(error) => {
                    tracing::debug!(%error, "nothing can be received");
                    return None;
                }
            }
        }
    }

    /// Sends a frame. The host checks its header, which is the guest's.
    pub(super) fn send(&self, mut frame: Buffers<'_>) -> Sent {
        let header = frame.take(super::NUM_BUFFERS.start);
        let (Some(header), Some(_)) = (header, frame.take(super::NUM_BUFFERS.len())) else { return Sent::Gone };
        let slices = [header.slices(), frame.slices()].concat();
        match sys::write(self.0.as_fd(), &slices) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Busy,
            Err(error) => {
                tracing::debug!(%error, "a frame was refused");
                Sent::Gone
            }
            Ok(_) => Sent::Gone,
        }
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
