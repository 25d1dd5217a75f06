# limit: 240
# A task answers as runc's does, through its life and in its order: its processes
# and their exec's id, what is possible while it is paused, signals to one and to
# all, figures after the exit, events. Limits have the same values.
watch_events
attempt() { if "$@" >>attempts 2>&1; then echo "yes: ${*:2:2}"; else echo "no: ${*:2:2}"; fi; }
state() { ctr tasks list | awk -v id="$id" '$1 == id { print $3 }'; }
is_gone_from_ps() { ! ctr tasks ps "$id" | grep -q "ExecID:$1"; }
life() {
    id=$1
    ctr run --detach --null-io "${@:2}" $busybox "$id" \
        sh -c 'trap "exit 9" TERM; sh -c "trap : TERM; touch /tmp/ready; sleep 1000; exec sleep 1000" & wait' >&2
    wait_until 30 sh -c "ctr tasks exec --exec-id ready\$(date +%s%N) $id test -e /tmp/ready"
    for exec in one two; do ctr tasks exec --detach --fifo-dir "$PWD" --exec-id $exec "$id" sleep 1000; done
    state
    ctr tasks ps "$id" | awk '{ $1 = ""; print }' | sort
    ctr tasks pause "$id"
    state
    attempt ctr tasks pause "$id"
    attempt ctr tasks exec --exec-id three "$id" true
    attempt ctr tasks delete "$id"
    ctr tasks ps "$id" | wc -l
    ctr tasks metrics --format json "$id" | jq -c '[.pids.current, keys]'
    # A signal that isn't deadly waits, a deadly one doesn't.
    ctr tasks kill --signal KILL --exec-id one "$id"
    wait_until 10 is_gone_from_ps one
    ctr tasks resume "$id"
    attempt ctr tasks resume "$id"
    state
    ctr tasks kill --all --signal TERM "$id"
    wait_until 20 task_is STOPPED "$id"
    attempt ctr tasks pause "$id"
    attempt ctr tasks kill "$id"
    ctr tasks metrics --format json "$id" | jq -c '.pids.current'
    ctr tasks delete "$id" 2>&1 | grep -o 'exit code.*'
    wait_until 10 ended
    # runc's shim now and then goes before its last event has: the delete.
    grep -v -e ready -e /tasks/delete events >seen
    grep -F "\"container_id\":\"$id\"" seen | grep -oE ' /tasks/[a-z-]+ ' | xargs
    ctr containers delete "$id"
}
ended() { grep ' /tasks/exit ' events | grep -qF "\"id\":\"$id\""; }
life "$NAME-theirs" >theirs
life "$NAME-ours" --snapshotter $snapshotter --runtime $runtime >ours
diff theirs ours || fail 'a task answers differently (< runc, > ours)'

limits() {
    nerdctl --cgroup-manager cgroupfs run --net none --detach --name "$NAME" --memory 64m --cpus 0.5 "$@" busybox sleep 1000 >&2
    nerdctl --cgroup-manager cgroupfs update --memory 96m --memory-reservation 32m --pids-limit 20 --cpu-shares 700 "$NAME" >&2
    nerdctl exec "$NAME" sh -c 'cd /sys/fs/cgroup && grep . memory.max memory.low memory.swap.max pids.max cpu.max cpu.weight'
    nerdctl rm --force "$NAME" >&2
}
limits >theirs
limits --snapshotter $snapshotter --runtime $runtime >ours
diff theirs ours || fail 'limits differ (< runc, > ours)'
