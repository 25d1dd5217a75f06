# A conversion that was cut off with the daemon is done again by its successor.
snapshots="ctr snapshots --snapshotter $snapshotter"
$snapshots prepare "$NAME" >/dev/null
mkdir mnt
eval "$($snapshots mounts "$PWD/mnt" "$NAME")"
head -c 67108864 /dev/urandom >mnt/file
umount mnt
folder=$(dirname "$(ls -t -d /var/lib/supermachine/snapshotter/snapshots/*/fs/file)")/..
$snapshots commit "$NAME-layer" "$NAME"
wait_until 20 pgrep -x tar2sqfs >/dev/null
kill -KILL "$(systemctl show --property MainPID --value supermachine-snapshotter)"
assert_eq '' "$(find "$folder" -name layer.squashfs)" 'too early'
wait_until 60 test -e "$folder/layer.squashfs"
assert_eq '' "$(find "$folder" -name '*.partial')" 'left of the first conversion'
mount -o loop,ro "$folder/layer.squashfs" mnt
cmp mnt/file "$folder/fs/file"
umount mnt
$snapshots remove "$NAME-layer"
