# The exit status of a container's process is its caller's.
for status in 0 1 42 255; do
    expect_status $status ctr_run --rm $busybox "$NAME-$status" sh -c "exit $status"
done
