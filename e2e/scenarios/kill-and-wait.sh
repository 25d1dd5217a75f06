# Signals reach a container's process: one that handles SIGTERM ends with its own
# status, and SIGKILL ends one that would not.
ctr_run --detach $busybox "$NAME" sh -c 'trap "exit 23" TERM; touch /tmp/ready; while :; do sleep 0.1; done'
wait_until 30 sh -c "ctr tasks exec --exec-id ready\$(date +%s%N) $NAME test -e /tmp/ready"
ctr tasks kill --signal TERM "$NAME"
wait_until 20 sh -c "ctr tasks list | grep -q STOPPED"
expect_status 23 ctr tasks delete "$NAME"
ctr containers delete "$NAME"

ctr_run --detach $busybox "$NAME-deaf" sleep 1000
ctr tasks kill --signal KILL "$NAME-deaf"
wait_until 20 sh -c "ctr tasks list | grep -q STOPPED"
expect_status 137 ctr tasks delete "$NAME-deaf"
ctr containers delete "$NAME-deaf"
