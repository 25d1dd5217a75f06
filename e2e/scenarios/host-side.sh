# On the host, a container is its VMM: in the container's cgroup, which goes with it,
# and in its network namespace: a new one, or one that is named.
network() { readlink "/proc/$1/ns/net"; }
cgroup() { sed -n 's/^0:://p' "/proc/$1/cgroup"; }
end() {
    ctr tasks delete --force "$1"
    ctr containers delete "$1"
}
ctr_run --detach --null-io $busybox "$NAME" sleep 1000
vmm=$(vmm_pid "$NAME")
assert_eq "/default/$NAME" "$(cgroup "$vmm")" cgroup
# The guest's 256 MiB, page tables for them, and 64 MiB for the VMM.
assert_eq $(((256 + 1 + 64) << 20)) "$(cat "/sys/fs/cgroup/default/$NAME/memory.max")" 'bound of memory'
[ "$(network "$vmm")" != "$(network self)" ] || fail "the VMM has the host's network"
end "$NAME"
[ ! -e "/sys/fs/cgroup/default/$NAME" ] || fail 'the cgroup is left'

ip netns add "$NAME"
ctr_run --detach --null-io --with-ns "network:/run/netns/$NAME" $busybox "$NAME-named" sleep 1000
assert_eq "$(stat -L -c %i "/run/netns/$NAME")" "$(stat -L -c %i "/proc/$(vmm_pid "$NAME-named")/ns/net")" 'network namespace'
end "$NAME-named"
ip netns delete "$NAME"

# After a crash nothing is left either.
ctr_run --detach --null-io $busybox "$NAME-crash" sleep 1000
kill -KILL "$(shim_pid "$NAME-crash")"
cgroup_is_gone() { [ ! -e "/sys/fs/cgroup/default/$NAME-crash" ]; }
wait_until 10 cgroup_is_gone
ctr containers delete "$NAME-crash"

nerdctl_run --detach --name "$NAME" busybox sleep 1000
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
path=$(cgroup "$(vmm_pid "$id")")
assert_eq "/system.slice/nerdctl-$id.scope" "$path" 'cgroup under systemd'
nerdctl rm --force "$NAME"
[ ! -e "/sys/fs/cgroup$path" ] || fail 'the cgroup is left'
