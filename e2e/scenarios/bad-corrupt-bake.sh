# limit: 400
# A bake with one flipped byte is not used: the container starts cold, the log
# says why, and a new bake is made.
require_bake
bake=$bakes/$(bake_keys base)
size=$(stat -c %s "$bake/memory")
offset=$((size / 2))
byte=$(od -An -tu1 -j $offset -N 1 "$bake/memory")
chmod u+w "$bake/memory"
printf "$(printf '\\%03o' $((byte ^ 1)))" | dd of="$bake/memory" bs=1 seek=$offset conv=notrunc status=none
assert_eq hello "$(ctr_run --rm $busybox "$NAME" echo hello)"
assert_eq cold "$(last_start_mode)"
assert_contains "$(last_start_reason)" "the digest of the file \`memory\` does not match the manifest; removed"
ctr_run --rm $busybox "$NAME-again" true
wait_until 240 a_bake_exists
