# limit: 240
# What is told of a container's use is what its own kernel counts, while it runs and
# until its task is deleted; `nerdctl stats` makes sense of it.
nerdctl_run --detach --name "$NAME" --memory 128m --pids-limit 50 busybox sleep 1000
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
metric() { ctr tasks metrics --format json "$id" | jq -r "$1 // 0"; }
inside() { nerdctl exec "$NAME" sh -c "$1"; }
assert_eq 1 "$(metric .pids.current)" processes
assert_eq 50 "$(metric .pids.limit)" 'limit of processes'
assert_eq $((128 << 20)) "$(metric .memory.usage_limit)" 'limit of memory'
for figure in .cpu.user_usec .cpu.system_usec .memory.anon .memory.file .memory.slab .memory.pgfault .memory.max_usage; do
    [ "$(metric $figure)" -gt 0 ] || fail "$figure is $(metric $figure)"
done
for part in .cpu.psi.some .memory.psi.full .io.psi.some .memory_events .rdma .hugetlb; do
    ctr tasks metrics --format json "$id" | jq -e "$part != null" >/dev/null || fail "$part is missing"
done

# 32 MiB, kept in memory.
before=$(metric .memory.usage)
inside 'dd if=/dev/zero of=/dev/shm/kept bs=1M count=32 2>/dev/null'
after=$(metric .memory.usage)
[ $((after - before)) -ge $((31 << 20)) ] && [ $((after - before)) -le $((40 << 20)) ] || fail "32 MiB more show as $((after - before)) bytes"
assert_eq $((32 << 20)) "$(metric .memory.shmem)" 'shared memory'
# On a slow host nerdctl gives up waiting for the first figures, and prints zeros.
nerdctl_counts() {
    shown=$(nerdctl stats --no-stream --format '{{.PIDs}} {{.MemUsage}}' "$NAME")
    [[ $shown == *'/ 128MiB' ]]
}
wait_until 60 nerdctl_counts
read -r processes used _ <<<"$shown"
assert_eq 1 "$processes" 'processes, says nerdctl'
used=${used%MiB} used=${used%.*}
[ "$used" -ge 32 ] && [ "$used" -le 48 ] || fail "nerdctl shows $shown"

# Processor time lies between what the container itself reads before and after.
time_inside() { inside "sed -n 's/^usage_usec //p' /sys/fs/cgroup/cpu.stat"; }
inside 'i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done'
first=$(time_inside)
told=$(metric .cpu.usage_usec)
last=$(time_inside)
[ "$first" -le "$told" ] && [ "$told" -le "$last" ] || fail "$told µs, not within $first and $last"

# What is written to disk shows with its device.
inside 'dd if=/dev/zero of=/root/file bs=1M count=4 2>/dev/null; sync'
written=$(metric '[.io.usage[].wbytes // 0] | add')
[ "$written" -ge $((4 << 20)) ] || fail "$written bytes written"
wait_until 5 test "$(inside 'cat /sys/fs/cgroup/io.stat' | sed -E 's/.*wbytes=([0-9]+).*/\1/' | awk '{ sum += $1 } END { print sum }')" = "$(metric '[.io.usage[].wbytes // 0] | add')"

# Afterwards the last figures stay.
usage=$(metric .cpu.usage_usec)
nerdctl kill "$NAME"
wait_until 10 task_is STOPPED "$id"
assert_eq 0 "$(metric .pids.current)" 'processes after the exit'
[ "$(metric .cpu.usage_usec)" -ge "$usage" ] || fail 'figures are lost with the exit'
nerdctl rm "$NAME"
