//! The system call filters that container engines send by default, in their shape: some four hundred names that are
//! allowed, a few with conditions, an error for the rest. The conditions that capabilities decide are decided for the
//! capabilities of `trial::process`.

use serde_json::{Value, json};
use syscalls::{x86, x86_64};

/// What the engines don't allow (or with conditions alone).
const DENIED: [&str; 81] = [
    "_sysctl",
    "acct",
    "add_key",
    "afs_syscall",
    "bdflush",
    "bpf",
    "break",
    "chroot",
    "clock_settime",
    "clock_settime64",
    "clone",
    "clone3",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "ftime",
    "get_kernel_syms",
    "get_mempolicy",
    "getpmsg",
    "gtty",
    "idle",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lock",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "mpx",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "security",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "socket",
    "stime",
    "stty",
    "swapoff",
    "swapon",
    "sysfs",
    "syslog",
    "tuxcall",
    "ulimit",
    "umount",
    "umount2",
    "unshare",
    "uselib",
];
const DENIED_BESIDES: [&str; 6] = ["userfaultfd", "ustat", "vhangup", "vm86", "vm86old", "vserver"];

/// The last system call that Debian 12's libseccomp knows by name: what other runtimes make of later ones depends on
/// the version of that library, not on the spec.
const LAST_KNOWN: u32 = 450;

/// What creates namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// containerd's (and nerdctl's): a rule for every family of sockets.
pub(super) fn containerd() -> Value {
    profile(families(), json!({"defaultAction": "SCMP_ACT_ERRNO"}))
}

/// The same with another error.
pub(super) fn strict() -> Value {
    profile(families(), json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": libc::EACCES}))
}

fn families() -> Vec<Value> {
    let families = (16..46).filter(|family| ![38, 40].contains(family)).map(|family| socket("SCMP_CMP_EQ", family));
    [socket("SCMP_CMP_LT", 16)].into_iter().chain(families).collect()
}

/// Docker's: any family but one, and the error named.
pub(super) fn docker() -> Value {
    profile(vec![socket("SCMP_CMP_NE", 40)], json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1}))
}

fn profile(sockets: Vec<Value>, mut whole: Value) -> Value {
    let native = x86_64::Sysno::iter().filter(|call| call.id() as u32 <= LAST_KNOWN).map(|call| call.name());
    let other = x86::Sysno::iter().filter(|call| call.id() as u32 <= LAST_KNOWN).map(|call| call.name());
    let mut allowed: Vec<&str> = native.chain(other).collect();
    allowed.sort_unstable();
    allowed.dedup();
    allowed.retain(|name| !DENIED.contains(name) && !DENIED_BESIDES.contains(name));
    let personality = |value: u64| rule("personality", "SCMP_CMP_EQ", value);
    let mut rules = vec![json!({"names": allowed, "action": "SCMP_ACT_ALLOW", "args": []})];
    rules.extend(sockets);
    rules.extend([0, 8, 0x20000, 0x20008, 0xffff_ffff].map(personality));
    rules.push(rule("clone", "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES));
    rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS}));
    whole["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    whole["syscalls"] = json!(rules);
    whole
}

fn socket(operator: &str, family: u64) -> Value {
    rule("socket", operator, family)
}

/// Allows a system call if its first argument compares so.
fn rule(name: &str, operator: &str, value: u64) -> Value {
    json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "valueTwo": 0, "op": operator}]})
}
