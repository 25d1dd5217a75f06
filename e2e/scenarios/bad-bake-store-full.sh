# limit: 240
# When the disk of the bakes is full, containers start cold, the daemon says that the
# disk is full, and no part of a bake stays.
mkdir -p $bakes
mount -t tmpfs -o size=1m,mode=755 tmpfs $bakes
trap 'umount -l $bakes' EXIT
assert_eq hello "$(ctr_run --rm $busybox "$NAME" echo hello)"
assert_eq cold "$(last_start_mode)"
said() { log_lines supermachine-snapshotter | grep -q 'baking failed.*No space left on device'; }
wait_until 120 said
assert_eq '' "$(ls -A $bakes)" 'left in the store'
