# Usage: volumes.sh wall|instructions RUNS
# Measures volumes in one boot of the emulated host, with runc and restored, taking turns: reading a large file of a
# volume, unpacking many small files onto one and onto the writable layer, and what a volume adds to `ctr run --rm`.
# Prints medians and ratios, and fails when a target is missed.
set -euo pipefail

clock=$1
runs=$2
image=docker.io/library/debian:latest
ours=(--snapshotter supermachine --runtime io.containerd.supermachine.v2)
number=0

fail() { echo "FAILED: $*" && exit 1; }
. "$(dirname "$0")/readiness.sh"
. "$(dirname "$0")/figures.sh"

cd "$(mktemp -d --tmpdir=/var/lib)"
trap 'rm -rf "$PWD"' EXIT
mkdir -p read write archive/files
# Four times the file and twenty times as many files take an emulated host half an hour.
megabytes=64 files=500
dd if=/dev/urandom of=read/large bs=1M count=$megabytes status=none
(cd archive/files && seq -f 'directory%02.0f' 0 99 | xargs mkdir && for ((i = 0; i < files; i++)); do
    printf '%01000d' $i >"directory$(printf %02d $((i % 100)))/file$i"
done)
tar --create --file read/small.tar --directory archive files

# Usage: run_with OPTION...; prints the microseconds that a start and its end took.
run_with() {
    number=$((number + 1))
    timed ctr run --rm "$@" $image "volumes-$number" true
}
volume() { echo "--mount type=bind,src=$PWD/$1,dst=/$1,options=rbind:rw"; }

# Usage: within NAME SCRIPT: prints the microseconds that a script took in a container that runs.
within() {
    number=$((number + 1))
    timed ctr tasks exec --exec-id "exec-$number" "$1" sh -c "$2"
}

unpack $image
run_with "${ours[@]}" >/dev/null
wait_for_bakes 1
for turn in $(seq 0 "$runs"); do
    for with in bare volume; do
        options=()
        [ $with = bare ] || options=($(volume read))
        theirs=$(run_with "${options[@]}") mine=$(run_with "${ours[@]}" "${options[@]}")
        [ "$turn" -gt 0 ] || continue # the first of each finds caches cold
        echo "$theirs" >>"start-runc-$with"
        echo "$mine" >>"start-ours-$with"
    done
done

ctr run --detach --null-io $(volume read) $(volume write) $image work-runc sleep 10000
ctr run --detach --null-io "${ours[@]}" $(volume read) $(volume write) $image work-ours sleep 10000
for turn in $(seq 0 "$runs"); do
    for name in runc ours; do
        empty=$(within work-$name true)
        # What the guest keeps of it is dropped when it is opened, since it might have changed.
        touch read/large
        read=$(within work-$name 'cat /read/large >/dev/null')
        volume=$(within work-$name 'tar -xf /read/small.tar -C /write')
        within work-$name 'rm -rf /write/files' >/dev/null
        layer=$(within work-$name 'cp /read/small.tar /small.tar; sync; mkdir /out; tar -xf /small.tar -C /out')
        within work-$name 'rm -rf /out /small.tar; sync' >/dev/null
        echo "turn $turn of $runs, $name: read $((read / 1000)) ms, volume $((volume / 1000)) ms, layer $((layer / 1000)) ms"
        [ "$turn" -gt 0 ] || continue
        for what in read volume layer; do echo $((${!what} - empty)) >>"$what-$name"; done
    done
done
for name in runc ours; do
    ctr tasks delete --force work-$name 2>/dev/null || true
    ctr containers delete work-$name
done

heading volumes "$runs"
line "reading $megabytes MiB of a volume, ms" read ''
to_read=$to_runc
line "unpacking $files files onto a volume, ms" volume ''
to_volume=$to_runc
line "unpacking them onto the writable layer, ms" layer ''
to_layer=$to_runc
line 'ctr run --rm, without a volume, ms' start -bare
bare_ours=$ours
line 'ctr run --rm, with one, ms' start -volume
added_ours=$(difference "$ours" "$bare_ours")
row 'added by the volume, ms' '' "$added_ours" ''

# 1/0.7 of the time is 0.7 of the throughput.
target "time to read a volume, to runc's" "$to_read" 1.43
target "time to unpack onto a volume, to runc's" "$to_volume" 3
target "time to unpack onto the writable layer, to runc's" "$to_layer" 1.2
[ "$clock" != instructions ] || target 'added to a restored start by a volume, virtual ms' "$added_ours" 15
exit $missed
