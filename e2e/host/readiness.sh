# Sourced by what measures or shows starts: waits for what a start builds on. The
# sourcing script defines `fail`, which prints a message and exits.

# Usage: wait_for SECONDS WHAT COMMAND...
wait_for() {
    local deadline=$((SECONDS + $1)) limit=$1 what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "$what: not within $limit s"
        sleep 0.2
    done
}

# Usage: bakes_exist COUNT: of images; with one there is the machine's.
bakes_exist() { [ "$(supermachine ls --json | jq '[.bakes[] | select(.level == "image")] | length')" = "$1" ]; }

# Usage: unpack IMAGE; for our snapshotter, and returns once its layers are
# squashfs files. The option belongs behind `unpack`: before it, it has no effect.
unpack() {
    local digest
    digest=$(ctr images list "name==$1" | awk 'NR == 2 { print $3 }')
    ctr snapshots unpack --snapshotter supermachine "$digest" >/dev/null || fail "cannot unpack $1"
    wait_for 900 "the layers' conversion" every_layer_is_converted
}

every_layer_is_converted() {
    local folder
    for folder in /var/lib/supermachine/snapshotter/snapshots/*/; do
        [ -e "$folder/layer.squashfs" ] || return 1
    done
}

# Usage: wait_for_bakes COUNT: of so many images.
wait_for_bakes() { wait_for 900 "bakes of $1 images" bakes_exist "$1"; }

# The job begins when the system does, and containerd takes a while.
containerd_answers() { ctr version >/dev/null 2>&1; }
wait_for 300 containerd containerd_answers
