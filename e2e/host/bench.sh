# Usage: bench.sh wall|instructions RUNS
# Measures `ctr run --rm debian true` with runc, cold and restored in one boot of
# the emulated host, the same in a pod that runs, and `ctr tasks exec … true` in a
# container that runs, prints medians and ratios, then what one restored start spent its time on, and fails when
# a target is missed.
set -euo pipefail

clock=$1
runs=$2
image=docker.io/library/debian:latest
ours=(--snapshotter supermachine --runtime io.containerd.supermachine.v2)
cold_runs=3
number=0
starts=0

fail() { echo "FAILED: $*" && exit 1; }
. "$(dirname "$0")/readiness.sh"
. "$(dirname "$0")/figures.sh"

# Usage: run_once OPTION... / exec_once CONTAINER
run_once() {
    number=$((number + 1))
    timed ctr run --rm "$@" $image "bench-$clock-$BASHPID-$number" true
}
exec_once() {
    number=$((number + 1))
    timed ctr tasks exec --exec-id "exec-$number" "$1" /bin/true
}

start_lines() { journalctl --no-pager --output=cat --unit=containerd | grep -F spawn_to_answer_us || true; }
a_start_was_logged() { [ "$(start_lines | wc -l)" -gt $starts ]; }
mode_of() { sed -E 's/.*mode="?([^" ]+)"?.*/\1/'; }
answer_of() { sed -E 's/.*spawn_to_answer_us=([0-9]+).*/\1/'; }

bake_once() { supermachine bake $image --force >bake.log 2>&1; }

# Those that are in use stay.
forget_bakes() { supermachine prune --all >/dev/null && supermachine ls --json | jq -e '.bakes == []' >/dev/null; }

# Usage: ours_once MODE TOTALS ANSWERS OPTION...; appends a start in that mode to two files.
ours_once() {
    local mode
    starts=$(start_lines | wc -l)
    run_once "${ours[@]}" "${@:4}" >>"$2"
    wait_for 60 'the log line of a start' a_start_was_logged
    mode=$(start_lines | tail -n 1 | mode_of)
    case $mode in "$1"*) ;; *) fail "expected a start that is $1, got: $(start_lines | tail -n 1)" ;; esac
    start_lines | tail -n 1 | answer_of >>"$3"
}

# Usage: owners; prints which threads ran how long during one more restored start.
# The host has one processor, so that the parts add up to the whole.
owners() {
    local tracing=/sys/kernel/tracing
    mountpoint -q $tracing || mount -t tracefs tracefs $tracing
    echo mono >$tracing/trace_clock
    echo 8192 >$tracing/buffer_size_kb
    echo 1 >$tracing/events/sched/sched_switch/enable
    echo begin >$tracing/trace_marker
    run_once "${ours[@]}" >/dev/null
    echo end >$tracing/trace_marker
    echo 0 >$tracing/events/sched/sched_switch/enable
    awk '
        !match($0, / [0-9]+\.[0-9]+: /) { next }
        { now = substr($0, RSTART, RLENGTH - 2) * 1000 }
        /tracing_mark_write: begin/ { last = first = now }
        /tracing_mark_write: end/ { printf "%9.1f  all of it\n", now - first; exit }
        first && match($0, /prev_comm=.* prev_pid=/) {
            spent[substr($0, RSTART + 10, RLENGTH - 20)] += now - last
            last = now
        }
        END { for (name in spent) if (spent[name] >= 1) printf "%9.1f  %s\n", spent[name], name }
    ' $tracing/trace | sort -rn
}

cd "$(mktemp -d)"
unpack $image
run_once >/dev/null # the first start of each kind reads its programs from the disk

for ((i = 0; i < cold_runs; i++)); do
    wait_for 60 'the end of all bakes' forget_bakes
    ours_once cold cold cold-answer
    wait_for_bakes 1
done
for ((i = 0; i < runs; i++)); do
    run_once >>runc
    ours_once 'restored(image)' restored restored-answer
    for cpus in 2 4; do
        ours_once 'restored(image)' $cpus-cpus $cpus-cpus-answer --annotation io.supermachine.config.vm.vcpus=$cpus
    done
    for limit in 64 2048; do
        ours_once 'restored(image)' $limit-limit $limit-limit-answer --memory-limit $((limit << 20))
    done
done
for ((i = 0; i < cold_runs; i++)); do
    timed bake_once >>baking || fail "$(cat bake.log)"
done
ctr run --detach $image runs-runc sleep infinity
ctr run --detach "${ours[@]}" $image runs-ours sleep infinity
for container in runs-runc runs-ours; do exec_once $container >/dev/null; done
for ((i = 0; i < runs; i++)); do
    exec_once runs-runc >>exec-runc
    exec_once runs-ours >>exec-ours
done
for container in runs-runc runs-ours; do ctr tasks delete --force $container; done

pod() { echo "--annotation io.containerd.runc.v2.group=pod-$1"; }
ctr run --detach $(pod runc) $image pod-runc sleep infinity
ctr run --detach $(pod ours) "${ours[@]}" $image pod-ours sleep infinity
for ((i = 0; i < runs; i++)); do
    run_once $(pod runc) >>pod-runc
    run_once $(pod ours) "${ours[@]}" >>pod-ours
done
for container in pod-runc pod-ours; do ctr tasks delete --force $container; done

runc=$(median runc) cold=$(median cold) restored=$(median restored)
cold_answer=$(median cold-answer) restored_answer=$(median restored-answer)
row='%-10s %22s %10s %30s   %s\n'
printf '\nctr run --rm %s true; median ms of %s starts (cold: %s)\n' $image "$runs" $cold_runs
printf "$row" '' 'whole command' 'to runc' "VMM spawn to agent's answer" ''
printf "$row" runc "$runc" 1.00 - ''
printf "$row" cold "$cold" "$(ratio $cold $runc)" "$cold_answer" ''
printf "$row" restored "$restored" "$(ratio $restored $runc)" "$restored_answer" ''
for cpus in 2 4; do
    total=$(median $cpus-cpus)
    printf "$row" "… $cpus CPUs" "$total" "$(ratio "$total" "$runc")" "$(median $cpus-cpus-answer)" ''
done

for limit in 64 2048; do
    total=$(median $limit-limit)
    printf "$row" "… $limit MiB" "$total" "$(ratio "$total" "$runc")" "$(median $limit-limit-answer)" ''
done
baking=$(median baking)
printf "$row" 'its bake' "$baking" "$(ratio "$baking" "$runc")" '' ''

pod_runc=$(median pod-runc) pod_ours=$(median pod-ours)
printf '\nthe same in a pod that runs; median ms of %s\n' "$runs"
printf "$row" runc "$pod_runc" 1.00 '' ''
printf "$row" ours "$pod_ours" "$(ratio $pod_ours $pod_runc)" '' ''

exec_runc=$(median exec-runc) exec_ours=$(median exec-ours)
printf '\nctr tasks exec … /bin/true; median ms of %s\n' "$runs"
printf "$row" runc "$exec_runc" 1.00 '' ''
printf "$row" ours "$exec_ours" "$(ratio $exec_ours $exec_runc)" '' ''

printf '\nms by thread in one restored start, which tracing slows down a little:\n'
owners

case $clock in
wall)
    target "spawn to answer, restored to cold" "$(ratio $restored_answer $cold_answer)" 0.20
    target "baking the image, to a cold start" "$(ratio "$baking" "$cold")" 2.00
    ;;
instructions)
    target "ctr run, restored to runc" "$(ratio $restored $runc)" 1.00
    target "ctr run in a pod, ours to runc" "$(ratio $pod_ours $pod_runc)" 1.00
    target "ctr run with 2 GiB, to one with 64 MiB" "$(ratio "$(median 2048-limit)" "$(median 64-limit)")" 1.10
    target "baking the image, to a cold start" "$(ratio "$baking" "$cold")" 2.00
    target "ctr tasks exec, ours to runc" "$(ratio $exec_ours $exec_runc)" 0.50
    target "spawn to answer, restored, virtual ms" "$restored_answer" 30
    ;;
esac
exit $missed
