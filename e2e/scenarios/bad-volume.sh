# What can't be shared is refused by name, with what is possible, before anything is
# made.
mkdir data
mkfifo pipe
tried() { expect_fail ctr_run --rm --mount "type=bind,src=$1,dst=/data,options=rbind:rw" $busybox "$NAME" true; }
tried "$PWD/missing"
assert_contains "$output" "cannot share $PWD/missing; does it exist?"
tried "$PWD/pipe"
assert_contains "$output" "$PWD/pipe is a pipe"
tried /dev/kvm
assert_contains "$output" '--device'
assert_eq '' "$(start_lines)" 'machines that were started'
# A file system that has gone is as good as empty: what is in it can't be had, and the rest can.
truncate -s 8M image
mke2fs -q image
mount -o loop image data
echo content >data/file
ctr_run --detach --null-io --mount "type=bind,src=$PWD/data,dst=/data,options=rbind:rw" $busybox "$NAME" sleep 1000
umount --lazy data
assert_eq content "$(ctr tasks exec --exec-id look "$NAME" cat /data/file)" 'it stays as long as it is used'
# One that is full says so.
expect_fail ctr tasks exec --exec-id fill "$NAME" dd if=/dev/zero of=/data/large bs=1M count=16
assert_contains "$output" 'No space left on device'
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
