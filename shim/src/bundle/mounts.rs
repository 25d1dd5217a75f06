//! The mount of a root file system that was mounted before containerd called (as Docker does).

use std::fs;
use std::path::Path;

use containerd_shim_protos::types::mount::Mount;

/// What is mounted at `target`, as a mount request that would lead to it.
pub(crate) fn mounted_at(target: &Path) -> Option<Mount> {
    let target = fs::canonicalize(target).ok()?;
    parse(&fs::read_to_string("/proc/self/mountinfo").ok()?, &target)
}

/// The topmost mount at `target` in the text of a `mountinfo` file (proc_pid_mountinfo(5)).
fn parse(mountinfo: &str, target: &Path) -> Option<Mount> {
    mountinfo.lines().rev().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        if Path::new(&unescape(point)) != target {
            return None;
        }
        let mut fields = file_system.split(' ');
        let (type_, source, options) = (fields.next()?, fields.next()?, fields.next()?);
        if type_ == "overlay" {
            let options = options.split(',').map(unescape).collect();
            Some(Mount { type_: type_.to_owned(), source: unescape(source), options, ..Default::default() })
        } else {
            // A bind mount shows the bound directory relative to its own file system.
            Some(Mount { type_: type_.to_owned(), source: unescape(root), ..Default::default() })
        }
    })
}

/// Space, tab, newline and backslash are written as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
90 22 0:50 / /b/rootfs rw,relatime shared:9 master:1 - overlay overlay rw,lowerdir=/s/2/fs:/s/1/fs,upperdir=/s/3/fs
91 22 0:51 / /with\\040space rw - tmpfs tmpfs rw
";

    #[test]
    fn overlay_is_found_with_its_options() {
        let mount = parse(MOUNTINFO, Path::new("/b/rootfs")).unwrap();
        assert_eq!(mount.type_, "overlay");
        assert_eq!(mount.options, ["rw", "lowerdir=/s/2/fs:/s/1/fs", "upperdir=/s/3/fs"]);
    }

    #[test]
    fn other_mounts_and_none() {
        assert_eq!(parse(MOUNTINFO, Path::new("/with space")).unwrap().type_, "tmpfs");
        assert!(parse(MOUNTINFO, Path::new("/b")).is_none());
        assert!(mounted_at(Path::new("/proc/self/does-not-exist")).is_none());
    }
}
