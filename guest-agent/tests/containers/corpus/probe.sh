#!/bin/sh
# Tells what a process finds: everything that a spec decides, a section for each part. What is looked at is this shell
# itself where it can be ($$), since what it starts could differ.
section() { echo "## $1"; }
show() { for file; do if [ -f "$file" ]; then echo "$file: $(cat "$file" 2>&1)"; fi; done; }
own() { for file; do echo "$file: $(cat "/proc/$$/$file" 2>&1)"; done; }

section status
while read -r line; do
    case $line in
        Umask:* | Uid:* | Gid:* | Groups:* | NSpid:* | Sig[BIC]* | Cap* | NoNew* | Seccomp:* | Specul* | Cpus_allowed:* | Mems_allowed:* | CoreD* | THP*)
            echo "$line" ;;
    esac
done </proc/$$/status
section limits
cat /proc/$$/limits
section scheduling
read -r line </proc/$$/stat
set -- ${line##*) }
if [ "$3$4" = "$$$$" ]; then echo "leads its session"; fi
echo "terminal $5, nice ${17}, real-time priority ${38}, policy ${39}; $(ionice -p $$ 2>&1)"
own oom_score_adj personality coredump_filter
section identity
id
pwd
stat -c '%a %u:%g' .
hostname
section namespaces
for kind in cgroup ipc mnt net pid time user uts; do readlink /proc/$$/ns/$kind; done
own uid_map gid_map setgroups timens_offsets
section environment
tr '\0' '\n' </proc/$$/environ
section arguments
tr '\0' '\n' </proc/$$/cmdline
section descriptors
for entry in /proc/$$/fd/*; do echo "${entry##*/} $(readlink "$entry" | sed 's/:.*//')"; done
section mounts
while read -r _ _ _ root target options rest; do
    tags=${rest%%- *}
    echo "$target $options [$tags] ${rest#*- } root=$root"
done </proc/$$/mountinfo
section devices
find /dev /extra /file -exec stat -c '%N %F %a %u:%g %t,%T' {} + 2>/dev/null
for node in /dev/* /extra/*; do
    if [ ! -c "$node" ] && [ ! -b "$node" ] || [ "$node" = /dev/console ]; then continue; fi
    echo "read $node: $( (: <"$node") 2>&1)"
    echo "write $node: $( (: >>"$node") 2>&1)"
done
section files
for path in / /dev /run /sys /proc/sys /volume /volume/below /volume/link; do
    if [ -d "$path" ]; then touch "$path/touched" 2>&1; fi
done
cat /volume/file /volume/below/deep /file 2>&1
for kind in b c; do
    mknod "/node-$kind" $kind 7 7 2>&1 && ( : <"/node-$kind" ) 2>&1
    rm -f "/node-$kind"
done
/volume/program 2>&1
section masks
for path in /proc/kcore /proc/keys /proc/acpi /proc/timer_list /proc/sysrq-trigger /etc/hidden /volume; do
    if [ -e "$path" ]; then stat -c '%n %F %a' "$path"; fi
    if [ -d "$path" ] && [ ! -e "$path/self" ]; then ls -a "$path"; fi
done
section parameters
show /proc/sys/kernel/domainname /proc/sys/kernel/shmmax /proc/sys/kernel/msgmax /proc/sys/kernel/sem \
    /proc/sys/kernel/shm_rmid_forced /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_forward \
    /proc/sys/net/ipv4/ping_group_range /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/conf/lo/rp_filter
section network
while read -r name _; do echo "$name"; done </proc/net/dev
show /sys/class/net/lo/flags
section cgroup
cat /proc/$$/cgroup
show /sys/fs/cgroup/cgroup.m* /sys/fs/cgroup/cgroup.type /sys/fs/cgroup/*.max /sys/fs/cgroup/*.high /sys/fs/cgroup/*.low \
    /sys/fs/cgroup/*.min /sys/fs/cgroup/*.weight /sys/fs/cgroup/cpu.max.burst /sys/fs/cgroup/cpu.idle \
    /sys/fs/cgroup/cpuset.cpus /sys/fs/cgroup/cpuset.mems /sys/fs/cgroup/memory.oom.group
section terminal
readlink /proc/$$/fd/0 | sed 's/:.*//'
stty size 2>&1
section end
