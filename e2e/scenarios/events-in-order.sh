# Events of a task and of its execs come in their order, with the init's exit after its execs'.
watch_events
ctr_run --detach $busybox "$NAME" sleep 1000
ctr tasks exec --exec-id one "$NAME" true
# FIFOs of a detached exec are the client's to remove: in a folder of ours.
ctr tasks exec --detach --fifo-dir "$PWD" --exec-id two "$NAME" sleep 1000
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
wait_until 5 saw_events "$NAME" create start exec-added exec-started exit exec-added exec-started exit exit delete
exits=$(grep ' /tasks/exit ' events | grep -oE '"id":"[^"]*"' | xargs)
assert_eq "id:one id:two id:$NAME" "$exits" 'order of the exits'
