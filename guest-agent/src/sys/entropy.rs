//! The kernel's random generator.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that one [`credit_entropy`] takes.
pub(crate) const SEED_BYTES: usize = 64;

const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

/// `struct rand_pool_info` of `linux/random.h` with its trailing buffer.
#[repr(C)]
struct PoolInfo {
    entropy_bits: c_int,
    bytes: c_int,
    seed: [u8; SEED_BYTES],
}

/// Mixes `seed` into the pool of `/dev/random` (open for writing), credits every bit of it and reseeds the generator,
/// so that nothing drawn from now on is shared with another VM restored from the same snapshot.
pub(crate) fn credit_entropy(random: BorrowedFd<'_>, seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    let info = PoolInfo { entropy_bits: SEED_BYTES as c_int * 8, bytes: SEED_BYTES as c_int, seed: *seed };
    // SAFETY: RNDADDENTROPY reads a header of two ints and then `bytes` bytes, which is exactly `info`.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: RNDRESEEDCRNG takes no argument.
    match unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
