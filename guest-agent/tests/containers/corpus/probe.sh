#!/bin/sh
# Tells what a process finds: everything that a spec decides, a section for each part. What is looked at is this shell
# itself ($$), since what it starts could differ; it starts little, because it is run often.
exec 2>&1
section() { echo "## $1"; }
show() { grep -sH '' "$@"; }

section status
while read -r line; do
    case $line in
        Umask:* | Uid:* | Gid:* | Groups:* | NSpid:* | Sig[BIC]* | Cap* | NoNew* | Seccomp:* | Specul* | Cpus_allowed:* | Mems_allowed:* | CoreD* | THP*)
            echo "$line" ;;
    esac
done </proc/$$/status
section limits
while read -r line; do echo "$line"; done </proc/$$/limits
section scheduling
read -r line </proc/$$/stat
set -- ${line##*) }
if [ "$3$4" = "$$$$" ]; then echo "leads its session"; fi
echo "terminal $5, nice ${17}, real-time priority ${38}, policy ${39}"
ionice -p $$
(cd /proc/$$ && show oom_score_adj personality coredump_filter)
section identity
id
pwd
stat -c '%a %u:%g' .
hostname
section namespaces
ls -l /proc/$$/ns | sed -n 's/.* -> //p'
(cd /proc/$$ && show uid_map gid_map setgroups timens_offsets)
section environment
tr '\0' '\n' </proc/$$/environ
section arguments
tr '\0' '\n' </proc/$$/cmdline
section descriptors
ls -l /proc/$$/fd
section mounts
while read -r _ _ _ root target options rest; do
    tags=${rest%%- *}
    echo "$target $options [$tags] ${rest#*- } root=$root"
done </proc/$$/mountinfo
section devices
find /dev /extra /file -exec stat -c '%N %F %a %u:%g %t,%T' {} +
for node in /dev/* /extra/*; do
    if [ ! -c "$node" ] && [ ! -b "$node" ] || [ "$node" = /dev/console ]; then continue; fi
    true <"$node" && echo "can read $node"
    true >>"$node" && echo "can write $node"
done
section files
for path in / /dev /run /sys /proc/sys /volume /volume/below /volume/link; do
    if [ -d "$path" ]; then true >"$path/touched" && echo "can write into $path"; fi
done
cat /volume/file /volume/below/deep /file
mknod /node-b b 7 7 && true </node-b && echo "can use /node-b"
mknod /node-c c 7 7 && true </node-c && echo "can use /node-c"
rm -f /node-b /node-c
/volume/program
section masks
for path in /proc/kcore /proc/keys /proc/acpi /proc/timer_list /proc/sysrq-trigger /etc/hidden /volume; do
    if [ -e "$path" ]; then stat -c '%n %F %a' "$path"; fi
    if [ -d "$path" ] && [ ! -e "$path/self" ]; then ls -a "$path"; fi
done
section parameters
cd /proc/sys && show kernel/domainname kernel/shmmax kernel/msgmax kernel/sem kernel/shm_rmid_forced fs/mqueue/msg_max \
    net/ipv4/ip_forward net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start net/ipv4/conf/lo/rp_filter
section network
while read -r name _; do echo "$name"; done </proc/net/dev
show /sys/class/net/lo/flags
section cgroup
while read -r line; do echo "$line"; done </proc/$$/cgroup
cd /sys/fs/cgroup && show cgroup.m* cgroup.type *.max *.high *.low *.min *.weight cpu.max.burst cpu.idle cpuset.cpus \
    cpuset.mems memory.oom.group
section terminal
stty size
section end
