//! Memory that the machine got after its kernel was booted (`Documentation/admin-guide/mm/memory-hotplug.rst`).

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel is told of memory, and tells of it.
const DIRECTORY: &str = "/sys/devices/system/memory";

/// Memory that can't be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("{bytes} bytes of memory at {start:#x} are no whole blocks of {block_bytes} bytes")]
    Blocks { start: u64, bytes: u64, block_bytes: u64 },
    #[error("{action} (is CONFIG_ARCH_MEMORY_PROBE on?)")]
    Kernel {
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Has the kernel take in memory, all of it to be used at once.
pub(super) fn add(start: u64, bytes: u64) -> Result<(), MemoryError> {
    if bytes == 0 {
        return Ok(());
    }
    let directory = Path::new(DIRECTORY);
    let failed = |action| move |source| MemoryError::Kernel { action, source };
    let block_bytes =
        read_hexadecimal(&directory.join("block_size_bytes")).map_err(failed("read the size of a block"))?;
    let blocks = blocks(start, bytes, block_bytes).ok_or(MemoryError::Blocks { start, bytes, block_bytes })?;
    fs::write(directory.join("auto_online_blocks"), "online").map_err(failed("have memory put to use"))?;
    for block in blocks {
        fs::write(directory.join("probe"), format!("{block:#x}")).map_err(failed("add a block of memory"))?;
    }
    Ok(())
}

/// Where each block begins, if they are whole ones.
fn blocks(start: u64, bytes: u64, block_bytes: u64) -> Option<impl Iterator<Item = u64>> {
    let end = start.checked_add(bytes)?;
    let is_whole = |number: u64| block_bytes > 0 && number.is_multiple_of(block_bytes);
    let step = usize::try_from(block_bytes).ok()?;
    (is_whole(start) && is_whole(bytes)).then(|| (start..end).step_by(step))
}

fn read_hexadecimal(path: &Path) -> io::Result<u64> {
    u64::from_str_radix(fs::read_to_string(path)?.trim_end(), 16).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_in_whole_blocks() {
        let list = |start, bytes, block| blocks(start, bytes, block).map(Iterator::collect::<Vec<_>>);
        assert_eq!(list(4096, 2048, 1024), Some(vec![4096, 5120]));
        assert_eq!(list(4096, 1000, 1024), None);
        assert_eq!(list(100, 1024, 1024), None);
        assert_eq!(list(0, 1024, 0), None);
        assert_eq!(list(u64::MAX - 1023, 1024, 1024), None);
    }
}
