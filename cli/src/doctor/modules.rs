//! Which of the kernel's modules there are.

use std::collections::BTreeSet;

use super::Root;

/// Those that are built in, loaded, or can be loaded.
#[derive(Debug)]
pub(super) struct Modules {
    known: BTreeSet<String>,
    /// Whether the kernel came with a list, so that what isn't known isn't there.
    has_list: bool,
}

impl Modules {
    pub(super) fn of(root: &Root, release: &str) -> Self {
        let list = |name: &str| root.read(format!("/lib/modules/{release}/{name}"));
        let lists = [list("modules.builtin"), list("modules.dep")];
        let listed = lists.iter().flat_map(|list| list.lines()).filter_map(name);
        let loaded = root.read("/proc/modules");
        let loaded = loaded.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
        // What is built in can be seen of file systems.
        let mounted = root.read("/proc/filesystems");
        let mounted = mounted.lines().filter_map(|line| line.split('\t').next_back()).map(str::to_owned);
        Self {
            known: listed.chain(loaded).chain(mounted).collect(),
            has_list: lists.iter().any(|list| !list.is_empty()),
        }
    }

    /// Whether there is one of that name; none if that can't be told.
    pub(super) fn has(&self, name: &str) -> Option<bool> {
        (self.known.contains(name) || self.has_list).then(|| self.known.contains(name))
    }
}

/// The name of the module in a line such as `kernel/net/sched/act_mirred.ko.xz: kernel/…`.
fn name(line: &str) -> Option<String> {
    let path = line.split(':').next()?;
    let file = path.rsplit('/').next()?;
    Some(file.split(".ko").next()?.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::root::fake;

    #[test]
    fn modules_are_found_wherever_they_are() {
        let (_directory, root) = fake(&[
            ("/lib/modules/6.12/modules.builtin", "kernel/net/sched/act_mirred.ko\n"),
            ("/lib/modules/6.12/modules.dep", "kernel/drivers/net/tun.ko.xz:\nkernel/a/nft-socket.ko: kernel/b.ko\n"),
            ("/proc/modules", "nf_tables 12 3 - Live 0x0\n"),
            ("/proc/filesystems", "nodev\tproc\nnodev\toverlay\n\text4\n"),
        ]);
        let modules = Modules::of(&root, "6.12");
        for name in ["act_mirred", "tun", "nft_socket", "nf_tables", "overlay", "ext4"] {
            assert_eq!(modules.has(name), Some(true), "{name}");
        }
        assert_eq!(modules.has("cls_u32"), Some(false));
        let other = Modules::of(&root, "6.13");
        assert_eq!((other.has("overlay"), other.has("tun")), (Some(true), None), "it has no list");
    }
}
