# limit: 240
# Limits of a running container change at once, all or none: memory, processes and
# processor time in the guest, where the container sees them; weight, processors and
# disks on the host, for its VMM. A limit beyond the VM changes nothing else.
disk=$(lsblk --noheadings --nodeps --paths --output NAME | head -n 1)
nerdctl_run --detach --name "$NAME" --memory 64m --pids-limit 50 --cpus 0.5 \
    --cpu-shares 512 --cpuset-cpus 0 --device-write-bps "$disk:100mb" busybox sleep 1000
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
host=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$(vmm_pid "$id")/cgroup")
guest() { nerdctl exec "$NAME" cat "/sys/fs/cgroup/$1"; }
limit() { ctr tasks metrics --format json "$id" | jq .memory.usage_limit; }
assert_eq $((64 << 20)) "$(guest memory.max)" 'memory at first'
assert_eq '50000 100000' "$(guest cpu.max)" 'processor time at first'
for controller in cpuset cpu io memory hugetlb pids; do
    assert_contains "$(guest cgroup.controllers)" $controller
done
assert_eq 20 "$(cat "$host/cpu.weight")" 'weight at first'
assert_eq 0 "$(cat "$host/cpuset.cpus")" 'processors at first'
assert_contains "$(cat "$host/io.max")" "$(cat "/sys/class/block/$(basename "$disk")/dev") rbps=max wbps=$((100 << 20))"

nerdctl update --memory 96m --memory-reservation 32m --pids-limit 20 --cpu-quota 30000 --cpu-period 60000 --cpu-shares 2 "$NAME"
assert_eq $((96 << 20)) "$(guest memory.max)" memory
assert_eq $((32 << 20)) "$(guest memory.low)" 'memory reservation'
assert_eq $((96 << 20)) "$(guest memory.swap.max)" swap
assert_eq 20 "$(guest pids.max)" processes
assert_eq '30000 60000' "$(guest cpu.max)" 'processor time'
assert_eq 1 "$(cat "$host/cpu.weight")" weight
assert_eq $((96 << 20)) "$(limit)" 'limit in the figures'

# What was set holds.
nerdctl update --pids-limit 3 "$NAME"
expect_fail nerdctl exec "$NAME" sh -c 'sleep 1 & sleep 1 & sleep 1 & wait'
assert_contains "$output" fork

# One that can't be met is named, and nothing of the rest is done.
expect_fail nerdctl update --memory 80m --cpuset-cpus 4000 "$NAME"
assert_contains "$output" linux.resources.cpu.cpus
assert_eq $((96 << 20)) "$(guest memory.max)" 'memory after a refusal'
assert_eq 0 "$(cat "$host/cpuset.cpus")" 'processors after a refusal'
expect_fail nerdctl update --cpu-shares 1000 --pids-limit 99999999 "$NAME"
assert_contains "$output" linux.resources.pids.limit
assert_eq 1 "$(cat "$host/cpu.weight")" 'weight after a refusal by the guest'

# More than the VM has is allowed, as more than the host has is by runc; the figures say what there is.
nerdctl update --memory 100g "$NAME"
assert_eq $((100 << 30)) "$(guest memory.max)" 'memory beyond the VM'
[ "$(limit)" -lt $((256 << 20)) ] || fail "the figures promise $(limit) bytes"
nerdctl rm --force "$NAME"
[ ! -e "$host" ] || fail 'the cgroup is left'

# At the start, too, a limit that can't be met is named.
expect_fail nerdctl_run --name "$NAME" --cpuset-cpus 4000 busybox true
assert_contains "$output" linux.resources.cpu.cpus
nerdctl rm --force "$NAME"
