//! The processors of the machine. A guest is captured with one, and gets the others when it is told how many it has.

use std::fs;
use std::io;

/// Where the kernel has a directory for each processor there may be.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// Brings up the second processor and those that follow, of as many. They come one after the other: the kernel brings up
/// several at once only when it boots.
pub(super) fn bring_up(count: u32) -> io::Result<()> {
    for number in 1..count {
        let switch = format!("{PROCESSORS}/cpu{number}/online");
        let on = fs::write(&switch, "1");
        on.map_err(|error| io::Error::new(error.kind(), format!("{switch}: {error}")))?;
    }
    Ok(())
}
