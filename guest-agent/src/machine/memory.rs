//! Memory that the machine got after its kernel was booted (`Documentation/admin-guide/mm/memory-hotplug.rst`).

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel is told of memory, and tells of it.
const DIRECTORY: &str = "/sys/devices/system/memory";

/// The memory that all connections together may take, in pages (`Documentation/networking/ip-sysctl.rst`, tcp_mem).
const TCP_MEMORY: &str = "/proc/sys/net/ipv4/tcp_mem";

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
    let before = total_bytes().map_err(failed("read how much memory there is"))?;
    let blocks = blocks(start, bytes, block_bytes).ok_or(MemoryError::Blocks { start, bytes, block_bytes })?;
    fs::write(directory.join("auto_online_blocks"), "online").map_err(failed("have memory put to use"))?;
    for block in blocks {
        fs::write(directory.join("probe"), format!("{block:#x}")).map_err(failed("add a block of memory"))?;
    }
    raise(Path::new(TCP_MEMORY), before, bytes).map_err(failed("raise the memory that connections may take"))
}

/// Raises limits that the kernel has derived from its memory at boot, `before`, by the share that was added.
fn raise(path: &Path, before: u64, added: u64) -> io::Result<()> {
    let limits = fs::read_to_string(path)?;
    let raised = limits.split_ascii_whitespace().map(|limit| {
        let limit: u128 = limit.parse().map_err(io::Error::other)?;
        Ok((limit + limit * u128::from(added) / u128::from(before.max(1))).to_string())
    });
    fs::write(path, raised.collect::<io::Result<Vec<_>>>()?.join(" "))
}

fn total_bytes() -> io::Result<u64> {
    figure("MemTotal:")
}

/// How much a process can have before anything else has to go.
pub(super) fn available_bytes() -> io::Result<u64> {
    figure("MemAvailable:")
}

/// In bytes.
fn figure(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    let missing = || io::Error::other(format!("it has no {name}"));
    kibibytes.map(|kibibytes: u64| kibibytes.saturating_mul(1024)).ok_or_else(missing)
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
    fn limits_grow_as_memory_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "2000\t3000\t4000\n").unwrap();
        raise(file.path(), 256, 1024).unwrap();
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "10000 15000 20000");
        fs::write(file.path(), "many").unwrap();
        assert!(raise(file.path(), 1, 1).is_err());
    }

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
