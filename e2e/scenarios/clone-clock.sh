# A restored container's clock is its host's, within 50 ms, also when by the clock the bake is a year old; time that only
# passes neither stands still nor goes back.
# limit: 300
python=docker.io/library/python3:latest
answer='
import sys, time
for line in sys.stdin:
    print(time.time_ns(), time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), flush=True)
'
require_bake

# Usage: compare CONTAINER OPTION...: the clock of a restored one with the host's, several times.
compare() {
    local before after realtime monotonic boottime last=0
    coproc clock { ctr_run --rm "${@:2}" $python "$1" python3 -c "$answer"; }
    for _ in $(seq 10); do
        before=$(date +%s%N)
        echo >&"${clock[1]}"
        read -r realtime monotonic boottime <&"${clock[0]}"
        after=$(date +%s%N)
        [ "$realtime" -ge $((before - 50000000)) ] && [ "$realtime" -le $((after + 50000000)) ] ||
            fail "the container's clock says $realtime, the host's $before before and $after after it was asked"
        [ "$monotonic" -gt "$last" ] || fail "monotonic time went from $last to $monotonic"
        [ "$boottime" -ge "$monotonic" ] || fail "less time since boot ($boottime) than monotonic ($monotonic)"
        last=$monotonic
    done
    eval "exec ${clock[1]}>&-"
    wait "$clock_PID"
    assert_contains "$(last_start_mode)" restored
}

compare "$NAME-today"

# A bake of its own, which is made a year ago: what the host logs meanwhile is of then, and in nobody's way.
uptime_ns() { awk '{ printf "%d", $1 * 1000000000 }' /proc/uptime; }
booted=$(($(date +%s%N) - $(uptime_ns)))
# Usage: set_clock NANOSECONDS: of the moment at which the host booted.
set_clock() { date --set "@$((($1 + $(uptime_ns)) / 1000000000))" >/dev/null; }
shape=(--annotation io.supermachine.config.vm.memory=152M)
trap 'set_clock $booted' EXIT
set_clock $((booted - 366 * 86400 * 1000000000))
ctr_run --rm "${shape[@]}" $python "$NAME-last-year" true
wait_until 120 bakes_exist 1 image 152
set_clock $booted
compare "$NAME-this-year" "${shape[@]}"
assert_eq 'restored(image)' "$(last_start_mode)"
assert_eq "$(date +%Y)" "$(ctr_run --rm "${shape[@]}" $busybox "$NAME-year" date +%Y)" 'the year'
assert_eq 'restored(base)' "$(last_start_mode)"
wait_until 120 bakes_exist 2 image 152
remove_bakes 152
