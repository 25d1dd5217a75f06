# The exit status of a container's process is its caller's, also when a signal
# ended it.
for status in 0 1 42 255; do
    expect_status $status ctr_run --rm $busybox "$NAME-$status" sh -c "exit $status"
done
expect_status 137 ctr_run --rm $busybox "$NAME-killed" sh -c 'kill -KILL $$'
