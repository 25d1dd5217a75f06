# SIGTERM reaches a container's process, which may handle it; its own status
# counts.
ctr_run --detach $busybox "$NAME" sh -c 'trap "exit 23" TERM; while :; do sleep 0.1; done'
wait_until 20 sh -c "ctr tasks list | grep -q RUNNING"
# The shell sets its trap after the start was reported.
wait_until 30 sh -c "ctr tasks exec --exec-id sig\$(date +%s%N) $NAME grep -q '^SigCgt:.*4000\$' /proc/1/status"
ctr tasks kill --signal TERM "$NAME"
wait_until 20 sh -c "ctr tasks list | grep -q STOPPED"
expect_status 23 ctr tasks delete "$NAME"
ctr containers delete "$NAME"
