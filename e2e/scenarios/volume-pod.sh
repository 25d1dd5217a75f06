# Containers of a pod bring volumes along to a machine that runs, share those that have
# the same source, and take theirs away when they go.
# limit: 240
group=io.kubernetes.cri.sandbox-id
mkdir shared own
pod() { ctr_run --annotation $group="$NAME" "$@"; }
volume() { echo "--mount type=bind,src=$PWD/$1,dst=/$1,options=rbind:rw"; }
pod --detach --null-io $busybox "$NAME" sleep 1000
vmm=$(vmm_pid "$NAME")
mounts() { wc -l <"/proc/$vmm/mountinfo"; }
assert_eq 1 "$(mounts)" mounts

pod --detach --null-io $(volume shared) $busybox "$NAME-a" sh -c 'until [ -e /shared/b ]; do sleep 0.1; done; echo a >/shared/a; sleep 1000'
assert_eq 2 "$(mounts)" mounts
assert_eq 'a' "$(pod --rm $(volume shared) $(volume own) $debian "$NAME-b" \
    sh -c 'touch /shared/b /own/b; until [ -s /shared/a ]; do sleep 0.1; done; cat /shared/a')"
assert_eq "$vmm" "$(vmm_pid "$NAME-a")"
test -e own/b
assert_eq 2 "$(mounts)" 'mounts after one has gone'
for turn in $(seq 5); do pod --rm $(volume own) $busybox "$NAME-turn$turn" sh -c "echo $turn >/own/turn"; done
assert_eq 5 "$(cat own/turn)"
assert_eq 2 "$(mounts)" 'mounts after five more'
expect_fail pod --rm --mount "type=bind,src=$PWD/missing,dst=/m,options=rbind" $busybox "$NAME-c" true
assert_contains "$output" "$PWD/missing"
assert_eq 2 "$(mounts)" 'mounts after one that failed'

for container in "$NAME-a" "$NAME"; do
    ctr tasks kill --signal KILL "$container"
    wait_until 20 task_is STOPPED "$container"
    expect_task_exit 137 "$container"
    ctr containers delete "$container"
done
wait_until 20 is_gone "$vmm"
