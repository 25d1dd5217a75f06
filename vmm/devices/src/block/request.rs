//! One request to a disk (virtio 1.3 §5.2.6).

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::disk::{Disk, SECTOR_BYTES};
use crate::ring::{Buffers, Chain, Request};

/// Type, priority and sector.
const HEADER_BYTES: usize = 16;
/// Sector, number of sectors and flags.
const RANGE_BYTES: usize = 16;
/// Most ranges in one DISCARD or WRITE_ZEROES.
pub(super) const MAX_RANGES: u32 = 16;
/// Most sectors in one range: bounds the time that one request takes.
pub(super) const MAX_RANGE_SECTORS: u32 = 1 << 17;
/// The only flag of a range, and only for WRITE_ZEROES: the space may be given back.
const RANGE_UNMAP: u32 = 1;

/// Why a request was not carried out.
#[derive(Debug)]
enum Refusal {
    /// The device doesn't know such requests.
    Unsupported,
    /// It can't be carried out, or makes no sense.
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Answers a request and returns how many bytes of it were written, the status included.
///
/// A request without room for a status can't be answered; it is given back with nothing written.
pub(super) fn serve(disk: &Disk, serial: &str, chain: Chain<'_>) -> u32 {
    let mut request = match chain.request {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(disk = serial, %error, "a request to a disk is malformed");
            return 0;
        }
    };
    let Some(status) = request.writable.take_last() else { return 0 };
    let (code, written) = match execute(disk, serial, request) {
        Ok(written) => (VIRTIO_BLK_S_OK, written),
        Err(Refusal::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        Err(Refusal::Failed(error)) => {
            tracing::debug!(disk = serial, %error, "a request to a disk failed");
            (VIRTIO_BLK_S_IOERR, 0)
        }
    };
    status.copy_from(&[code as u8]);
    written.saturating_add(1)
}

/// Carries out a request whose status byte was taken off; returns how many bytes it wrote to guest memory.
fn execute(disk: &Disk, serial: &str, request: Request<'_>) -> Result<u32, Refusal> {
    let Request { mut readable, writable } = request;
    let mut header = [0; HEADER_BYTES];
    readable.take(HEADER_BYTES).ok_or_else(malformed)?.copy_to(&mut header);
    let [kind, _, sector_low, sector_high] = words(header);
    let sector = u64::from(sector_high) << 32 | u64::from(sector_low);
    let bytes = u32::try_from(writable.bytes()).ok().ok_or_else(malformed)?;
    match kind {
        VIRTIO_BLK_T_IN => {
            disk.read(position(sector, bytes.into())?, writable)?;
            Ok(bytes)
        }
        VIRTIO_BLK_T_OUT => {
            disk.write(position(sector, readable.bytes() as u64)?, readable)?;
            Ok(0)
        }
        VIRTIO_BLK_T_FLUSH => {
            disk.flush()?;
            Ok(0)
        }
        VIRTIO_BLK_T_GET_ID => {
            let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
            for (target, byte) in id.iter_mut().zip(serial.bytes()) {
                *target = byte;
            }
            Ok(u32::try_from(writable.copy_from(&id)).unwrap_or(0))
        }
        VIRTIO_BLK_T_DISCARD => ranges(readable, 0, |offset, bytes| disk.discard(offset, bytes)),
        VIRTIO_BLK_T_WRITE_ZEROES => ranges(readable, RANGE_UNMAP, |offset, bytes| disk.write_zeroes(offset, bytes)),
        _ => Err(Refusal::Unsupported),
    }
}

/// Applies `act` to each range (byte offset and length) of a DISCARD or WRITE_ZEROES.
fn ranges(
    mut readable: Buffers<'_>,
    known_flags: u32,
    act: impl Fn(u64, u64) -> io::Result<()>,
) -> Result<u32, Refusal> {
    let length = readable.bytes();
    if length == 0 || !length.is_multiple_of(RANGE_BYTES) || length > MAX_RANGES as usize * RANGE_BYTES {
        return Err(malformed().into());
    }
    while let Some(range) = readable.take(RANGE_BYTES) {
        let mut bytes = [0; RANGE_BYTES];
        range.copy_to(&mut bytes);
        let [sector_low, sector_high, sectors, flags] = words(bytes);
        if flags & !known_flags != 0 {
            // §5.2.6.2: unknown flags make a request unsupported.
            return Err(Refusal::Unsupported);
        }
        if sectors > MAX_RANGE_SECTORS {
            return Err(malformed().into());
        }
        let bytes = u64::from(sectors) * SECTOR_BYTES;
        act(position(u64::from(sector_high) << 32 | u64::from(sector_low), bytes)?, bytes)?;
        if readable.bytes() == 0 {
            break;
        }
    }
    Ok(0)
}

/// Byte offset of a sector, for a transfer of whole sectors.
fn position(sector: u64, bytes: u64) -> io::Result<u64> {
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(malformed());
    }
    sector.checked_mul(SECTOR_BYTES).ok_or_else(malformed)
}

/// Four little-endian words.
fn words(bytes: [u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|index| words.get(index).map_or(0, |word| u32::from_le_bytes(*word)))
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidInput.into()
}
