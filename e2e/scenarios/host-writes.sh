# What the host has written into a container's snapshot before its start is there.
snapshots="ctr snapshots --snapshotter $snapshotter"
id=$NAME
ctr containers create --snapshotter $snapshotter --runtime $runtime $busybox "$id" cat /etc/written
mkdir mnt
eval "$($snapshots mounts "$PWD/mnt" "$id")"
echo by the host >mnt/etc/written
umount mnt
assert_eq 'by the host' "$(ctr tasks start "$id")"
ctr containers delete "$id"
