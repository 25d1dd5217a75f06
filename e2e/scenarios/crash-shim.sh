# When the shim is killed, its VM ends, containerd tells the exit, and what is left is
# an id to delete. The same when the VMM is killed with it.
watch_events
for victims in shim both; do
    id=$NAME-$victims
    # FIFOs would be the client's to remove.
    ctr_run --detach --null-io $busybox "$id" sleep 1000
    shim=$(shim_pid "$id") vmm=$(vmm_pid "$id")
    case $victims in shim) kill -KILL "$shim" ;; both) kill -KILL "$shim" "$vmm" ;; esac
    wait_until 5 is_gone "$vmm"
    wait_until 5 saw_events "$id" create start exit delete
    assert_contains "$(grep /tasks/exit events | tail -n 1)" '"exit_status":137'
    expect_fail ctr tasks delete "$id"
    assert_contains "$output" 'not found'
    ctr containers delete "$id"
done
