# The status of a process is its caller's: an exec's whatever it is, also of one that a
# signal ended, and an init's. (The shim's own tests take every status.)
ctr_run --detach --null-io $busybox "$NAME" sleep 1000
for status in $(seq 0 32 224) 1 125 126 127 128 129 130 254 255; do
    expect_status "$status" ctr tasks exec --exec-id "e$status" "$NAME" sh -c "exit $status"
done
for signal in 1 2 9 11 15; do
    expect_status $((128 + signal)) ctr tasks exec --exec-id "s$signal" "$NAME" sh -c "kill -$signal \$\$"
done
ctr tasks delete --force "$NAME"
ctr containers delete "$NAME"

for status in 126 129 254; do
    expect_status $status ctr_run --rm --null-io $busybox "$NAME-$status" sh -c "exit $status"
done
