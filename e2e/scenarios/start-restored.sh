# limit: 300
# Without a bake a container starts cold and a bake is made; the next one is
# restored from it, and the log says so for each.
require_bake
assert_eq hello "$(ctr_run --rm $busybox "$NAME" echo hello)"
assert_contains "$(last_start_mode)" restored
