# When the VMM is killed, the container has ended as if killed, and is deleted like any other.
watch_events
ctr_run --detach $busybox "$NAME" sleep 1000
kill -KILL "$(vmm_pid "$NAME")"
wait_until 5 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
wait_until 5 saw_events "$NAME" create start exit delete
ctr containers delete "$NAME"

# A VMM that hangs doesn't keep its container from being killed.
ctr_run --detach --null-io $busybox "$NAME-hangs" sleep 1000
kill -STOP "$(vmm_pid "$NAME-hangs")"
began=$SECONDS
ctr tasks kill --signal KILL "$NAME-hangs"
wait_until 10 task_is STOPPED "$NAME-hangs"
expect_task_exit 137 "$NAME-hangs"
[ $((SECONDS - began)) -lt 10 ] || fail "$((SECONDS - began)) s to get rid of a VMM that hangs"
ctr containers delete "$NAME-hangs"

nerdctl_run --detach --name "$NAME" busybox sleep 1000
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
kill -KILL "$(vmm_pid "$id")"
wait_until 5 task_is STOPPED "$id"
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" 'Exited (137)'
nerdctl rm "$NAME"
