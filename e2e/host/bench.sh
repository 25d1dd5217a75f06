# Usage: bench.sh wall|instructions RUNS
# Measures `ctr run --rm debian true` with runc, cold and restored in one boot of
# the emulated host, prints medians and ratios, and fails when a target is missed.
set -euo pipefail

clock=$1
runs=$2
image=docker.io/library/debian:latest
ours=(--snapshotter supermachine --runtime io.containerd.supermachine.v2)
bakes=/var/lib/supermachine/bakes
cold_runs=3
number=0

# Usage: run_once OPTION...; prints the microseconds that the command took.
run_once() {
    number=$((number + 1))
    local start=$EPOCHREALTIME end
    ctr run --rm "$@" $image "bench-$clock-$BASHPID-$number" true
    end=$EPOCHREALTIME
    echo $((${end/./} - ${start/./}))
}

# The shim's newest line about a start, split in fields.
newest_start() { journalctl --no-pager --output=cat --unit=containerd | grep -F spawn_to_answer_us | tail -n 1; }
mode_of() { sed -E 's/.*mode="?([^" ]+)"?.*/\1/'; }
answer_of() { sed -E 's/.*spawn_to_answer_us=([0-9]+).*/\1/'; }

# Usage: ours_once MODE TOTALS ANSWERS; appends a start in that mode to two files.
ours_once() {
    local mode
    run_once "${ours[@]}" >>"$2"
    mode=$(newest_start | mode_of)
    case $mode in "$1"*) ;; *) echo "expected a start that is $1, got $mode" && exit 1 ;; esac
    newest_start | answer_of >>"$3"
}

wait_for_bake() {
    local deadline=$((SECONDS + 900))
    until compgen -G "$bakes/*/manifest" >/dev/null; do
        [ $SECONDS -lt $deadline ] || { echo "no bake within 900 s" && exit 1; }
        sleep 0.2
    done
}

median() { sort -n "$1" | awk '{ value[NR] = $1 } END { printf "%.1f", value[int((NR + 1) / 2)] / 1000 }'; }
ratio() { awk "BEGIN { printf \"%.2f\", $1 / $2 }"; }
at_most() { awk "BEGIN { exit !($1 <= $2) }"; }

cd "$(mktemp -d)"
digest=$(ctr images list name==$image | awk 'NR == 2 { print $3 }')
ctr snapshots --snapshotter supermachine unpack "$digest" >/dev/null
run_once >/dev/null # the first start of each kind reads its programs from the disk

for ((i = 0; i < cold_runs; i++)); do
    rm -rf "${bakes:?}"/*
    ours_once cold cold cold-answer
    wait_for_bake
done
for ((i = 0; i < runs; i++)); do
    run_once >>runc
    ours_once restored restored restored-answer
done

runc=$(median runc) cold=$(median cold) restored=$(median restored)
cold_answer=$(median cold-answer) restored_answer=$(median restored-answer)
row='%-10s %22s %10s %30s   %s\n'
printf '\nctr run --rm %s true; median ms of %s starts (cold: %s)\n' $image "$runs" $cold_runs
printf "$row" '' 'whole command' 'to runc' "VMM spawn to agent's answer" ''
printf "$row" runc "$runc" 1.00 - ''
printf "$row" cold "$cold" "$(ratio $cold $runc)" "$cold_answer" ''
printf "$row" restored "$restored" "$(ratio $restored $runc)" "$restored_answer" ''

missed=0
# Usage: target WHAT VALUE LIMIT
target() {
    if at_most "$2" "$3"; then echo "met: $1 is $2, at most $3"; else echo "MISSED: $1 is $2, at most $3" && missed=1; fi
}
case $clock in
wall) target "spawn to answer, restored to cold" "$(ratio $restored_answer $cold_answer)" 0.20 ;;
instructions)
    target "ctr run, restored to runc" "$(ratio $restored $runc)" 1.00
    target "spawn to answer, restored, virtual ms" "$restored_answer" 30
    ;;
esac
exit $missed
