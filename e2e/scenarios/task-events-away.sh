# limit: 240
# What happens while containerd is away is told when it is back: the task's status and
# exit code, and the exit's event, which the shim kept. And of twenty tasks that end at
# once each has its four events, in their order.
ctr_run --detach --null-io $busybox "$NAME" sh -c 'sleep 3; exit 9'
vmm=$(vmm_pid "$NAME")
# A listener would subscribe too late; at this level containerd says what it is told.
mkdir -p /run/systemd/system/containerd.service.d
path=$(readlink -f "/proc/$(systemctl show --property MainPID --value containerd)/exe")
printf '[Service]\nExecStart=\nExecStart=%s --log-level trace\n' "$path" >/run/systemd/system/containerd.service.d/trace.conf
systemctl stop containerd
quiet() {
    rm -r /run/systemd/system/containerd.service.d
    systemctl daemon-reload
    systemctl restart containerd
}
trap quiet EXIT
systemctl daemon-reload
wait_until 30 is_gone "$vmm"
systemctl start containerd
task_is STOPPED "$NAME" || fail "not stopped: $(ctr tasks list)"
exit_was_told() { log_lines containerd | grep -F 'event forwarded' | grep -qF /tasks/exit; }
wait_until 10 exit_was_told
expect_task_exit 9 "$NAME"
ctr containers delete "$NAME"
trap - EXIT
quiet

watch_events
for number in $(seq 20); do
    ctr_run --rm --null-io $busybox "$NAME-$number" true
    wait_until 5 saw_events "$NAME-$number" create start exit delete
done
