# limit: 300
# Two containers restored from one bake share neither random numbers nor boot id,
# and both have today's clock.
require_bake
print_identity() { ctr_run --rm $busybox "$NAME-$1" sh -c 'head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid; date +%s'; }
first=$(print_identity 1)
second=$(print_identity 2)
[ "$(sed -n 1p <<<"$first")" != "$(sed -n 1p <<<"$second")" ] || fail "the same random numbers: $first"
[ "$(sed -n 2p <<<"$first")" != "$(sed -n 2p <<<"$second")" ] || fail "the same uuid: $first"
age=$(($(date +%s) - $(sed -n 3p <<<"$second")))
[ $age -ge 0 ] && [ $age -le 60 ] || fail "the clone's clock is $age s behind"
