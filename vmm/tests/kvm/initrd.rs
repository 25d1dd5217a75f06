//! A tiny initial ramdisk: busybox and a script.

use std::fs::File;
use std::io::Write;

/// What every init does first: applets, device nodes and output.
const PRELUDE: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
exec </dev/console >/dev/console 2>&1
";

/// An archive (cpio, "newc") with busybox in `/bin` and `script` as `/init`.
pub(crate) fn file(busybox: &[u8], script: &str) -> File {
    let mut archive = Vec::new();
    for directory in ["bin", "dev", "proc", "sys"] {
        add(&mut archive, directory, 0o040_755, &[]);
    }
    add(&mut archive, "bin/busybox", 0o100_755, busybox);
    add(&mut archive, "init", 0o100_755, format!("{PRELUDE}{script}").as_bytes());
    add(&mut archive, "TRAILER!!!", 0, &[]);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&archive).unwrap();
    file
}

fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len() + 1;
    let (size, name_size) = (content.len(), name.len() + 1);
    let header = format!(
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    );
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}
