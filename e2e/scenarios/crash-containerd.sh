# A container outlives containerd: when that has been killed and started again, the
# container is there, takes commands, and its exit and status are told.
pid_of() { systemctl show --property MainPID --value "$1"; }
ctr_run --detach --null-io $busybox "$NAME" sh -c 'trap "exit 23" TERM; touch /tmp/ready; while :; do sleep 0.1; done'
vmm=$(vmm_pid "$NAME")
old=$(pid_of containerd)
kill -KILL "$old"
wait_until 10 is_gone "$old"
systemctl start containerd
task_is RUNNING "$NAME" || fail 'the task is not there any more'
assert_eq "$vmm" "$(vmm_pid "$NAME")" 'process id'
assert_eq hello "$(ctr tasks exec --exec-id one "$NAME" sh -c 'test -e /tmp/ready && echo hello')"
watch_events
ctr tasks kill --signal TERM "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 23 "$NAME"
wait_until 5 saw_events "$NAME" exit delete
ctr containers delete "$NAME"
