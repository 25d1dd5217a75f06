# A guest that panics ends its task as soon as its VM, and the shim's log says why in the
# kernel's words. While a VMM hangs, its task still answers, and is removed in seconds.
watch_events
# Memory that runs out is what brings this kernel down, if it is told so.
# shellcheck disable=SC2016 # the container's shell expands it
ctr_run --detach --null-io --privileged --memory-limit $((32 << 20)) $busybox "$NAME" \
    sh -c 'echo 2 >/proc/sys/vm/panic_on_oom && exec tail /dev/zero'
wait_until 30 task_is STOPPED "$NAME"
said=$(log_lines containerd | tr '\n' ' ')
assert_contains "$said" 'the guest powered off or reset'
assert_contains "$said" 'Kernel panic'
expect_task_exit 137 "$NAME"
wait_until 5 saw_events "$NAME" create start exit delete
ctr containers delete "$NAME"

ctr_run --detach --null-io $busybox "$NAME-hangs" sleep 1000
kill -STOP "$(vmm_pid "$NAME-hangs")"
began=$SECONDS
task_is RUNNING "$NAME-hangs" || fail "not running: $(ctr tasks list)"
assert_contains "$(ctr tasks ps "$NAME-hangs")" "$(vmm_pid "$NAME-hangs")"
expect_fail ctr tasks delete "$NAME-hangs"
[ $((SECONDS - began)) -lt 6 ] || fail "$((SECONDS - began)) s for answers about a VMM that hangs"
ctr tasks delete --force "$NAME-hangs"
[ $((SECONDS - began)) -lt 15 ] || fail "$((SECONDS - began)) s to get rid of a VMM that hangs"
ctr containers delete "$NAME-hangs"
