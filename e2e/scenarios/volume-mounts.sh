# What the host has mounted below a directory belongs to it with rbind and not with bind,
# and is read-only with it. With rslave what the host mounts later
# is seen, and without it not. What can't hold is refused.
mkdir -p data/below data/later
mount -t tmpfs none data/below
echo below >data/below/file
trap 'umount -R data/below data/later 2>/dev/null || true' EXIT
with() { ctr_run --rm --mount "type=bind,src=$PWD/data,dst=/data,options=$1" $busybox "$NAME" "${@:2}"; }

assert_eq below "$(with rbind:rw cat /data/below/file)"
assert_eq '' "$(with bind:rw ls /data/below)"
for option in ro rro; do with rbind:$option sh -c '! touch /data/new && ! touch /data/below/new'; done
with rbind:rw touch /data/below/new
test -e data/below/new
# Each has its own numbers of files.
assert_eq 2 "$(with rbind:rw stat -c %d /data /data/below/. | sort -u | wc -l)" 'file systems'

later() {
    ctr_run --detach --null-io --mount "type=bind,src=$PWD/data,dst=/data,options=rbind:$1" $busybox "$NAME" sleep 1000
    ctr tasks exec --exec-id before "$NAME" ls /data/later
    mount -t tmpfs none data/later
    touch data/later/mounted
    ctr tasks exec --exec-id after "$NAME" ls /data/later
    # The machine has looked at it: without --lazy it is busy.
    umount --lazy data/later
    ctr tasks exec --exec-id again "$NAME" ls /data/later
    ctr tasks kill --signal KILL "$NAME"
    wait_until 20 task_is STOPPED "$NAME"
    expect_task_exit 137 "$NAME"
    ctr containers delete "$NAME"
}
assert_eq mounted "$(later rslave)"
assert_eq '' "$(later rprivate)"

expect_fail with rbind:rshared true
assert_contains "$output" 'mount /data with option rshared'
assert_contains "$output" 'rslave'
