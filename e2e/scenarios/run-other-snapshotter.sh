# An image unpacked by another snapshotter runs: its files are shared with the VM, changes
# land where that snapshotter has them, and nothing stays mounted. So does a directory.
run_overlayfs() { ctr run --runtime $runtime "$@"; }
assert_eq hello "$(run_overlayfs --rm $busybox "$NAME" echo hello)"
run_overlayfs --detach --null-io $busybox "$NAME" sh -c 'echo written >/file; chown 7:8 /file; rm /etc/group; exec sleep 1000'
wait_until 20 ctr tasks exec --exec-id look "$NAME" test ! -e /etc/group
! grep -q "$NAME" /proc/mounts || fail 'the host sees the mount'
ctr tasks delete --force "$NAME"
mkdir mnt
eval "$(ctr snapshots mounts "$PWD/mnt" "$NAME")"
assert_eq 'written 7 8' "$(cat mnt/file) $(stat --format '%u %g' mnt/file)"
[ ! -e mnt/etc/group ] || fail 'the removed file is there'
umount mnt
ctr containers delete "$NAME"

mkdir -p rootfs/bin
cp "$(command -v busybox)" rootfs/bin/
assert_eq bin "$(ctr_run --rm --rootfs "$PWD/rootfs" "$NAME" /bin/busybox ls -d bin)"
