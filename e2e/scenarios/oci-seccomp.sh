# System calls meet the same under nerdctl's own filter and under one that is given as
# under runc: success, the same error, the same signal.
#
# Left out: whether a core was dumped, which the kernel's core_pattern decides.
# limit: 300
cat >profile.json <<'PROFILE'
{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 40},
    {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_KILL_PROCESS"},
    {"names": ["mknod", "mknodat"], "action": "SCMP_ACT_TRAP"},
    {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
    {"names": ["personality"], "action": "SCMP_ACT_LOG"}]}
PROFILE
look='grep -E "^(Seccomp|NoNewPrivs)" /proc/self/status
try() { "$@" 2>&1; echo "$*: $?"; }
try mkdir /made; try chmod 700 /tmp; try mknod /node p; try nc -w 1 127.0.0.1 9; try linux32 true; try unshare -U true
try unshare -m true; try mount -t tmpfs none /mnt; try umount /proc; try chroot / true; try hostname x; try date -s @0
try swapoff /none; try pivot_root / /mnt; try nsenter -t 1 -u true; try setarch linux32 true'
for options in '' '--security-opt no-new-privileges' "--security-opt seccomp=$PWD/profile.json" '--cap-add SYS_ADMIN'; do
    # shellcheck disable=SC2086 # options are words
    nerdctl run --rm --net none $options $busybox sh -c "$look" | sed 's/ (core dumped)//' >theirs
    # shellcheck disable=SC2086
    nerdctl_run --rm $options $busybox sh -c "$look" | sed 's/ (core dumped)//' >ours
    diff theirs ours || fail "what system calls meet differs (< runc, > ours) with: $options"
done
