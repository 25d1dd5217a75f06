# A container outlives the node daemon, which comes back by itself: other containers
# start again within seconds.
ctr_run --detach --null-io $busybox "$NAME" sleep 1000
daemon=$(systemctl show --property MainPID --value supermachine-snapshotter)
kill -KILL "$daemon"
starts() { [ "$(ctr_run --rm $busybox "$NAME-next" echo hello)" = hello ]; }
wait_until 15 starts
[ "$daemon" != "$(systemctl show --property MainPID --value supermachine-snapshotter)" ] || fail 'the daemon lives on'
task_is RUNNING "$NAME" || fail 'the container ended with the daemon'
assert_eq hello "$(ctr tasks exec --exec-id one "$NAME" echo hello)"
ctr tasks delete --force "$NAME"
ctr containers delete "$NAME"
