# Signals reach a container's process: one that handles SIGTERM ends with its own
# status, and SIGKILL ends one that would not.
ctr_run --detach $busybox "$NAME" sh -c 'trap "exit 23" TERM; touch /tmp/ready; while :; do sleep 0.1; done'
wait_until 30 sh -c "ctr tasks exec --exec-id ready\$(date +%s%N) $NAME test -e /tmp/ready"
ctr tasks kill --signal TERM "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 23 "$NAME"
ctr containers delete "$NAME"

ctr_run --detach $busybox "$NAME-deaf" sleep 1000
ctr tasks kill --signal KILL "$NAME-deaf"
wait_until 20 task_is STOPPED "$NAME-deaf"
expect_task_exit 137 "$NAME-deaf"
ctr containers delete "$NAME-deaf"
