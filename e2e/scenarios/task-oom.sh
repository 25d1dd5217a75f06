# limit: 240
# A container that needs more memory than it may have ends with 137; containerd hears
# that memory ran out before it hears of the exit, and finds it in the figures.
watch_events
oom_kills() { ctr tasks metrics --format json "$1" | jq -r '.memory_events.oom_kill // 0'; }
ctr_run --detach --null-io --memory-limit $((48 << 20)) $busybox "$NAME" tail /dev/zero
wait_until 30 task_is STOPPED "$NAME"
assert_eq 1 "$(oom_kills "$NAME")" 'processes killed'
expect_task_exit 137 "$NAME"
wait_until 5 saw_events "$NAME" create start oom exit delete
ctr containers delete "$NAME"

# Without a limit the VM's memory is the limit. What is used up little by little would first have the kernel
# search everything for pages to take back, which an emulated processor takes minutes for.
ctr_run --detach --null-io $busybox "$NAME-vm" sh -c \
    'exec dd if=/dev/zero of=/dev/null bs=$(awk "/MemTotal/ { print \$2 - 4096 }" /proc/meminfo)K'
wait_until 60 task_is STOPPED "$NAME-vm"
assert_eq 1 "$(oom_kills "$NAME-vm")" "processes killed for lack of the VM's memory"
expect_task_exit 137 "$NAME-vm"
wait_until 5 saw_events "$NAME-vm" create start oom exit delete
ctr containers delete "$NAME-vm"

# One of many, and one that was added: the container goes on, and containerd hears of it.
ctr_run --detach --null-io --memory-limit $((48 << 20)) $busybox "$NAME-part" sh -c 'tail /dev/zero; exec sleep 1000'
wait_until 30 saw_events "$NAME-part" create start oom
task_is RUNNING "$NAME-part" || fail 'the container ended with one of its processes'
expect_status 137 ctr tasks exec --exec-id greedy "$NAME-part" tail /dev/zero
assert_eq 2 "$(oom_kills "$NAME-part")" 'processes killed in a container that goes on'
wait_until 5 saw_events "$NAME-part" create start oom exec-added exec-started oom exit
ctr tasks delete --force "$NAME-part"
ctr containers delete "$NAME-part"

# A limit below what is in use makes it true.
nerdctl_run --detach --name "$NAME" --memory 64m busybox sh -c 'exec dd if=/dev/zero of=/dev/null bs=40M'
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
uses_40_mib() { [ "$(ctr tasks metrics --format json "$id" | jq .memory.anon)" -gt $((40 << 20)) ]; }
wait_until 30 uses_40_mib
nerdctl update --memory 20m "$NAME"
wait_until 20 task_is STOPPED "$id"
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" 'Exited (137)'
wait_until 5 saw_events "$id" create start oom exit
nerdctl rm "$NAME"
