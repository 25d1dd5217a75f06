# limit: 240
# A bake that was made for another machine isn't used: the container starts cold, the
# log says what differs, and the bake is gone.
require_bake
ours=$bakes/$(bake_keys base)
ctr_run --rm --annotation io.supermachine.config.vm.memory=192M $busybox "$NAME-other" true
wait_until 120 bakes_exist 1 image 192
other=$bakes/$(bake_keys base 192)
rm -r "$ours"
cp -a "$other" "$ours"
assert_eq hello "$(ctr_run --rm $busybox "$NAME" echo hello)"
assert_eq cold "$(last_start_mode)"
assert_contains "$(last_start_reason)" 'another machine (memory'
remove_bakes 192
# Asked for by the cold start.
wait_until 120 a_bake_exists
