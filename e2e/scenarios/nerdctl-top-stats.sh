# What nerdctl shows of a running container: on the host it is one process, its VMM, and
# no stranger is taken for one of its own; its figures; that it is paused.
# limit: 240
nerdctl_run --detach --name "$NAME" busybox sh -c 'for _ in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait'
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
has_ten() { [ "$(ctr tasks ps "$id" | wc -l)" -ge 11 ]; }
wait_until 20 has_ten
nerdctl top "$NAME" -o pid,comm | tee shown
assert_eq "$(vmm_pid "$id") supermachine-vm" "$(tail -n +2 shown | xargs)" 'processes on the host'

figures() {
    nerdctl run "${flags[@]}" --detach --name "$NAME-same" busybox sleep 1000 >&2
    # The figures themselves take longer to come than it waits, on a slow host.
    nerdctl stats --no-stream --format '{{.Name}} {{.PIDs}}' "$NAME-same" | sed 's/ [0-9]*$/ PIDS/'
    nerdctl pause "$NAME-same"
    nerdctl ps --filter "name=$NAME-same" --format '{{.Status}}' | sed -E 's/[0-9].*//'
    nerdctl exec "$NAME-same" true 2>&1 | grep -o paused || true
    nerdctl top "$NAME-same" | wc -l
    nerdctl unpause "$NAME-same"
    nerdctl unpause "$NAME-same" 2>&1 || true
    nerdctl exec "$NAME-same" echo awake
    nerdctl rm --force "$NAME-same" >&2
}
same_as_runc figures
nerdctl rm --force "$NAME"
