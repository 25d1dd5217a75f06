//! What is known to differ from other runtimes, and why. Where crun and runc differ, runc is followed.

use super::specs::Entry;

/// Something that differs.
pub(super) struct Difference {
    /// The other runtime.
    runtime: &'static str,
    /// `GROUP/NAME` of the spec, or the beginning of it; all of them if empty.
    spec: &'static str,
    /// A section of the report; all of them if empty. Whether the spec runs at all, and if not why, is the section
    /// `outcome`.
    section: &'static str,
    /// A part of the line.
    part: &'static str,
    /// What takes the part's place before reports are compared; none leaves out the line.
    instead: Option<&'static str>,
    /// Why that is so.
    reason: &'static str,
}

impl Difference {
    /// Those about a runtime and a spec; a combination of specs has the differences of each.
    pub(super) fn between(runtime: &str, entry: &Entry) -> Vec<&'static Self> {
        let concerns = |known: &&Self| {
            debug_assert!(!known.reason.is_empty());
            known.runtime == runtime && entry.parts.iter().any(|name| name.starts_with(known.spec))
        };
        DIFFERENCES.iter().filter(concerns).collect()
    }

    /// A line as it is compared; none if it isn't.
    pub(super) fn apply(known: &[&Self], section: &str, line: &str) -> Option<String> {
        let mut line = line.to_owned();
        for known in known.iter().filter(|known| known.section.is_empty() || known.section == section) {
            match known.instead {
                None if line.contains(known.part) => return None,
                None => {}
                Some(instead) => line = line.replace(known.part, instead),
            }
        }
        Some(line)
    }
}

const fn line(runtime: &'static str, section: &'static str, part: &'static str, reason: &'static str) -> Difference {
    Difference { runtime, spec: "", section, part, instead: None, reason }
}

const fn words(
    runtime: &'static str,
    section: &'static str,
    part: &'static str,
    instead: &'static str,
    reason: &'static str,
) -> Difference {
    Difference { runtime, spec: "", section, part, instead: Some(instead), reason }
}

impl Difference {
    /// The same for some specs alone.
    const fn of(self, spec: &'static str) -> Self {
        Self { spec, ..self }
    }
}

/// That a spec runs in one of both.
const fn outcome(runtime: &'static str, spec: &'static str, reason: &'static str) -> Difference {
    line(runtime, "outcome", "", reason).of(spec)
}

const RUNC: &str = "runc";
const CRUN: &str = "crun";

const READER: &str =
    "the library that reads specs doesn't know it by this name; leaving it out of a spec would be worse";

/// All of them.
#[rustfmt::skip]
const DIFFERENCES: &[Difference] = &[
    line(RUNC, "status", "SigIgn:", "signals that libc keeps for itself are as whoever started the test left them; Go resets one"),
    outcome(RUNC, "namespaces/parameters of the network without a namespace", "the VM's network is the container's own"),
    outcome(RUNC, "mounts/a word that means nothing", "runc hands `defaults` to the file system; mount(8), whose word it is, doesn't"),
    outcome(RUNC, "devices/a device in place of a default", "runc wants to open /dev/null itself, which such a spec forbids"),
    line(RUNC, "", "/dev/kmsg", "our rules for devices hold from the first process's birth on, so the node is bound instead of made").of("devices/one device denied"),
    line(RUNC, "status", "Cap", "runc 1.3 leaves a process every capability if its spec has no list; others, and earlier runc, none").of("process/no capabilities"),
    line(RUNC, "files", "node-", "runc 1.3 leaves a process every capability if its spec has no list; others, and earlier runc, none").of("process/no capabilities"),
    outcome(RUNC, "wrong/a bind mount without a source", "runc binds the bundle's folder, which a guest doesn't have"),
    line(RUNC, "cgroup", "cpu.max.burst", "runc 1.1 doesn't know the field").of("cgroup/a burst"),
    line(RUNC, "cgroup", "cpu.", "runc 1.1 doesn't know the field").of("cgroup/idle"),
    outcome(RUNC, "seccomp/flags", "runc 1.1 refuses them"),
    outcome(RUNC, "wrong/no action", "the specification requires it"),
    outcome(RUNC, "wrong/a scheduling flag", READER),
    outcome(RUNC, "wrong/an unknown capability", READER),

    // runc refuses most of what crun lets pass.
    line(CRUN, "outcome", "ran", "crun passes over fields that are wrong, where runc refuses them").of("wrong/"),
    line(CRUN, "", "/dev/kmsg", "our rules for devices hold from the first process's birth on, so the node is bound instead of made").of("devices/one device denied"),
    line(CRUN, "", "", "crun 1.8 doesn't know the field").of("process/scheduling"),
    line(CRUN, "", "", "crun 1.8 doesn't know the field").of("further/scheduling"),
    line(CRUN, "scheduling", "", "crun 1.8 doesn't know the field").of("process/I/O priority"),
    line(CRUN, "scheduling", "", "crun 1.8 doesn't know the field").of("further/I/O priority"),
    line(CRUN, "scheduling", "leads its session", "crun makes no session for a process without a terminal").of("further/"),
    line(CRUN, "", "", "further processes have the container's umask in runc, their own in crun").of("further/a umask"),
    line(CRUN, "", "", "further processes have the container's umask in runc, their own in crun").of("further/the container's umask"),
    line(CRUN, "scheduling", "oom_score_adj", "further processes have the container's OOM score in runc").of("further/"),
    line(CRUN, "environment", "", "without the field there are no variables in runc, the container's in crun").of("further/no environment"),
    line(CRUN, "devices", "/dev/pts/0 ", "runc gives a terminal to the user of a further process, too").of("further/a terminal of another user"),
    outcome(CRUN, "further/a relative directory", "crun passes over fields that are wrong, where runc refuses them"),
    line(CRUN, "", "", "crun 1.8 doesn't know the field").of("further/a processor"),
    outcome(CRUN, "namespaces/a given time namespace", "crun 1.8 dies of it"),
    outcome(CRUN, "namespaces/a time namespace", "crun 1.8 dies of it"),
    outcome(CRUN, "namespaces/clocks that are moved", "crun 1.8 dies of it"),
    outcome(CRUN, "further/moved clocks", "crun 1.8 dies of it"),
    line(CRUN, "namespaces", "monotonic", "crun 1.8 doesn't move clocks in a user namespace").of("namespaces/clocks that are moved"),
    line(CRUN, "namespaces", "boottime", "crun 1.8 doesn't move clocks in a user namespace").of("namespaces/clocks that are moved"),
    outcome(CRUN, "namespaces/empty paths", "crun takes an empty path for one"),
    outcome(CRUN, "namespaces/parameters of the network without a namespace", "the VM's network is the container's own"),
    outcome(CRUN, "mounts/a file through a link that leads out", "crun makes nothing behind links"),
    outcome(CRUN, "mounts/flags of the file system", "crun doesn't know some of the words"),
    outcome(CRUN, "mounts/two propagations", "crun passes both to the kernel at once"),
    outcome(CRUN, "mounts/a word that means nothing", "crun hands `defaults` to the file system; mount(8), whose word it is, doesn't"),
    outcome(CRUN, "devices/a device without a path", "crun requires one, runc doesn't"),
    outcome(CRUN, "cgroup/fields without a meaning in version 2", "crun refuses them, runc passes them over"),
    line(CRUN, "outcome", "setrlimit (RLIM_MEMLOCK)", "crun lifts a limit before it filters devices, which takes CAP_SYS_RESOURCE"),

    line(CRUN, "cgroup", ".rsvd.max", "crun limits the huge pages that are used, runc those that are reserved, too"),

    words(CRUN, "mounts", "master: ", "", "crun's bind mounts get nothing from the guest by default, runc's do"),
    words(CRUN, "mounts", "shared: ", "", "crun makes private what it mounts, runc does what the options say"),
    words(CRUN, "mounts", "unbindable ", "", "crun makes private what it mounts, runc does what the options say"),
    line(CRUN, "mounts", "/volume/below ", "crun leaves out what is below in a user namespace"),
    line(CRUN, "files", "/volume/below", "crun leaves out what is below in a user namespace"),
    line(CRUN, "files", "deep file", "crun leaves out what is below in a user namespace"),
    words(CRUN, "mounts", "cgroup2 cgroup2 ", "cgroup2 cgroup ", "crun chooses the name of the source"),
    words(CRUN, "mounts", "sysfs sysfs ro ", "sysfs sysfs rw ", "crun makes the mount read-only, not the file system"),
    words(CRUN, "mounts", "proc proc ro ", "proc proc rw ", "crun makes the mount read-only, not the file system"),
    words(CRUN, "mounts", "ro,nosuid,nodev,noexec,relatime [] proc ", "ro,relatime [] proc ", "crun 1.8 drops the flags of read-only paths"),
    words(CRUN, "mounts", "ro,nosuid,relatime [] proc ", "ro,relatime [] proc ", "crun 1.8 drops the flags of read-only paths"),
    words(CRUN, "mounts", "tmpfs tmpfs rw,size=0k", "tmpfs tmpfs ro", "what hides a directory is empty either way"),
    words(CRUN, "mounts", ",mode=755", "", "a tmpfs has the mode of what it covers, as in runc"),
    words(CRUN, "masks", "/volume directory 1777", "/volume directory 755", "a tmpfs has the mode of what it covers, as in runc"),
    words(CRUN, "masks", "/volume directory 1755", "/volume directory 755", "crun gives the mount points that it makes other modes"),
    line(CRUN, "masks", "touched", "a tmpfs has the mode of what it covers, as in runc"),
    line(CRUN, "files", "into /volume", "a tmpfs has the mode of what it covers, as in runc"),
    line(CRUN, "files", "create /volume/touched", "a tmpfs has the mode of what it covers, as in runc"),
    line(CRUN, "mounts", "/private ", "a tmpfs has the mode of what it covers, as in runc"),
    line(CRUN, "mounts", "root=/null", "files are hidden by the container's own /dev/null, as in runc"),
    line(CRUN, "mounts", "/dev/null", "files are hidden by the container's own /dev/null, as in runc"),
    line(CRUN, "masks", "/proc/kcore", "files are hidden by the container's own /dev/null, as in runc"),
    line(CRUN, "masks", "/proc/keys", "files are hidden by the container's own /dev/null, as in runc"),
    line(CRUN, "mounts", "/tmp/d ", "crun doesn't take `atime` for the opposite of `noatime`").of("mounts/access times"),
    line(CRUN, "mounts", "/dev/", "crun gives bound devices more flags than runc").of("namespaces/"),
    line(CRUN, "mounts", "/dev/", "crun gives bound devices more flags than runc").of("further/"),
    line(CRUN, "mounts", "/dev/", "crun gives bound devices more flags than runc").of("terminal/a terminal in a user namespace"),
    line(CRUN, "mounts", "/dev/console", "crun 1.8 drops the flags of what it binds there"),
    line(CRUN, "mounts", "/etc/hidden ", "crun shows what hides the directory alone").of("mounts/a path both masked and read-only"),
    line(CRUN, "mounts", "/volume ", "crun drops flags that the source has").of("mounts/a directory with flags that its source has"),
    line(CRUN, "mounts", "/volume ", "crun gives it one").of("mounts/a tmpfs without a source"),
    line(CRUN, "mounts", "/volume ", "crun takes no later word for the opposite of an earlier one").of("mounts/opposites"),
    line(CRUN, "files", "/volume", "crun takes no later word for the opposite of an earlier one").of("mounts/opposites"),
    outcome(CRUN, "mounts/a directory restricted with what is below", "crun 1.8 can't set access times of a whole tree"),
    line(CRUN, "cgroup", "", "crun binds /sys with what is below").of("namespaces/a user namespace in the host's network"),
    line(CRUN, "mounts", "/sys", "crun binds /sys with what is below").of("namespaces/a user namespace in the host's network"),
    words(CRUN, "made", " 41755 ", " 40755 ", "crun gives the mount points that it makes other modes"),
    words(CRUN, "made", " 100700 ", " 100644 ", "crun gives the mount points that it makes other modes"),
    line(CRUN, "made", "/dev/core", "crun makes the link even if there is no /proc/kcore"),
    line(CRUN, "devices", "/dev/core", "crun makes the link even if there is no /proc/kcore"),
    line(CRUN, "devices", "", "crun lets a device be used whatever the rules, if it is a default one").of("devices/a device in place of a default"),
    line(CRUN, "devices", "can read /dev/", "crun has no rules for devices if the spec has none"),
    line(CRUN, "devices", "can write /dev/", "crun has no rules for devices if the spec has none"),
    line(CRUN, "devices", "/dev/fuse character", "crun sets the mode of what it binds"),
    line(CRUN, "devices", "/dev/kmsg character", "crun sets the mode of what it binds"),
    line(CRUN, "devices", "probe: line", "crun has no rules for devices if the spec has none"),
    line(CRUN, "files", "/node-", "crun has no rules for devices if the spec has none"),
    line(CRUN, "environment", "HOME=", "crun leaves HOME out where runc doesn't, and the other way round"),
    line(CRUN, "arguments", "probe", "crun makes the program's name absolute").of("process/a program in the current directory"),
    line(CRUN, "files", "probe: line", "crun makes the program's name absolute").of("process/a program in the current directory"),
    line(CRUN, "calls", "x86-64 45", "calls newer than the profile are ENOSYS, as in runc"),
    line(CRUN, "calls", "x86-64 46", "calls newer than the profile are ENOSYS, as in runc"),
    line(CRUN, "calls", "x86-64 47", "calls newer than the profile are ENOSYS, as in runc"),
    line(CRUN, "calls", "00(0, 0)", "calls newer than the profile are ENOSYS, as in runc"),
    line(CRUN, "calls", "i386 460", "calls newer than the profile are ENOSYS, as in runc"),
    line(CRUN, "calls", "x32 1073742724", "calls newer than the profile are ENOSYS, as in runc"),
];
