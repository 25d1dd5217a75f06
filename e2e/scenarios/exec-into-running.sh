# exec starts further processes in a running container: they see its processes
# and files, their output and status are their caller's, and the container goes on.
ctr_run --detach $busybox "$NAME" sh -c 'echo made >/tmp/file; exec sleep 1000'
assert_eq made "$(wait_until 20 ctr tasks exec --exec-id one "$NAME" cat /tmp/file)"
assert_contains "$(ctr tasks exec --exec-id two "$NAME" ps)" 'sleep 1000'
expect_status 9 ctr tasks exec --exec-id three "$NAME" sh -c 'exit 9'
task_is RUNNING "$NAME" || fail "the container ended with its exec"
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
