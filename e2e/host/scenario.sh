# Sourced before each scenario, which runs with `bash -eu -o pipefail` inside the
# emulated host, as root, in an empty folder, with containerd running.
#
#   NAME     the scenario's name; use it, or names that start with it, for containers
#   TMPDIR   a folder of the scenario's own
#
# The first lines of a scenario say what it asserts. A scenario fails when a
# command fails, when it exceeds its limit (`# limit: SECONDS`, 120 by default), or
# when anything of it is left afterwards: a process, mount, file, container.
#
# All scenarios share containerd's default namespace: the images are there, and
# unpacking them again in a namespace of each would cost more than the scenarios.

runtime=io.containerd.supermachine.v2
snapshotter=supermachine
busybox=docker.io/library/busybox:latest
debian=docker.io/library/debian:latest
bakes=/var/lib/supermachine/bakes
started_at=$(date +%s)

fail() {
    printf 'FAILED: %s\n' "$*"
    exit 1
}

# Usage: assert_eq EXPECTED ACTUAL [WHAT]
assert_eq() {
    [ "$1" = "$2" ] || fail "${3:-value}: expected \"$1\", got \"$2\""
}

# Usage: assert_contains TEXT PART
assert_contains() {
    case $1 in *"$2"*) ;; *) fail "expected \"$2\" in: $1" ;; esac
}

# Usage: expect_status STATUS COMMAND...; its output is in $output.
expect_status() {
    local expected=$1 status=0
    shift
    output=$("$@" 2>&1) || status=$?
    [ "$status" = "$expected" ] || fail "expected status $expected, got $status from: $* ($output)"
}

# Usage: expect_fail COMMAND...; any status but 0 will do, its output is in $output.
expect_fail() {
    local status=0
    output=$("$@" 2>&1) || status=$?
    [ "$status" != 0 ] || fail "should have failed: $* ($output)"
}

# Usage: wait_until SECONDS COMMAND...
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $deadline ] || fail "did not become true in time: $*"
        sleep 0.2
    done
}

# Usage: ctr_run CONTAINER_OR_OPTION...: `ctr run` with our runtime.
ctr_run() {
    ctr run --snapshotter $snapshotter --runtime $runtime "$@"
}

# Usage: nerdctl_run OPTION... IMAGE COMMAND...: `nerdctl run` with our runtime.
nerdctl_run() {
    nerdctl run --net none --snapshotter $snapshotter --runtime $runtime "$@"
}

# Usage: nerdctl_bridge OPTION... IMAGE COMMAND...: the same on nerdctl's default bridge.
nerdctl_bridge() {
    nerdctl run --snapshotter $snapshotter --runtime $runtime "$@"
}

# Usage: same_on_bridge FUNCTION: as `same_as_runc`, on nerdctl's default bridge.
same_on_bridge() { same_with "$1"; }

# Usage: same_as_runc FUNCTION: what it prints must be the same under runc and under our runtime, but for ids and
# times. It is called once for each, with `flags`, the options of `nerdctl run` or `create` that say which.
same_as_runc() { same_with "$1" --net none; }
same_with() {
    local flags=("${@:2}")
    "$1" >theirs
    flags+=(--snapshotter $snapshotter --runtime $runtime)
    "$1" >ours
    sed -Ei 's/[0-9a-f]{64}/ID/g; s/time="[^"]*"/TIME/; s/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z/TIME/' theirs ours
    diff theirs ours || fail "$1 differs (< runc, > ours)"
}

# Usage: task_is STATUS CONTAINER
task_is() {
    ctr tasks list | grep -Eq "^$2 .* $1( |\$)"
}

# Usage: expect_task_exit STATUS CONTAINER: deletes the task, which has ended with
# this status. ctr says it in a warning and succeeds.
expect_task_exit() {
    local said
    said=$(ctr tasks delete "$2" 2>&1) || fail "ctr tasks delete $2: $said"
    if [ "$1" = 0 ]; then assert_eq '' "$said"; else assert_contains "$said" "non-zero exit code $1\""; fi
}

# Usage: vmm_pid CONTAINER / shim_pid CONTAINER
vmm_pid() {
    ctr tasks list | awk -v id="$1" '$1 == id { print $2 }'
}
shim_pid() {
    pgrep -f "^[^ ]*containerd-shim-supermachine-v2 .*-id $1 "
}

# Usage: watch_events: collects containerd's events in the file `events`.
watch_events() {
    ctr events >events &
    # It says nothing when it has subscribed: an event of our own is waited for.
    until grep -q "$NAME-probe" events; do ctr namespaces create "$NAME-probe" 2>/dev/null || ctr namespaces remove "$NAME-probe"; done
    ctr namespaces remove "$NAME-probe" 2>/dev/null || true
}

# Usage: task_events CONTAINER: topics of its task's events so far, without /tasks/, on one line.
task_events() {
    grep -F "\"container_id\":\"$1\"" events | grep -oE ' /tasks/[a-z-]+ ' | sed 's,[ /]*tasks/,,' | xargs
}

# Usage: saw_events CONTAINER TOPIC...
saw_events() {
    [ "$(task_events "$1")" = "${*:2}" ]
}

# Usage: is_gone PID
is_gone() {
    [ ! -e "/proc/$1" ]
}

# Why the last start was not restored, as the shim logged it.
last_start_reason() {
    start_lines | tail -n 1 | sed -E 's/.* reason="([^"]*)".*/\1/'
}

# Usage: log_lines UNIT: what a service has logged since the scenario began.
log_lines() {
    journalctl --no-pager --output=cat --unit="$1" --since="@$started_at"
}

# Usage: bake_keys LEVEL [MIB]: of the bakes for machines with so much memory.
bake_keys() {
    supermachine ls --json | jq -r --arg level "$1" --argjson mib "${2:-256}" \
        '.bakes[] | select(.level == $level and .memory_bytes == $mib * 1048576) | .key'
}

# Usage: bakes_exist COUNT LEVEL [MIB]
bakes_exist() {
    [ "$(bake_keys "${@:2}" | wc -l)" = "$1" ]
}

a_bake_exists() {
    [ -n "$(bake_keys base)" ]
}

# Makes sure that the next start can be restored.
require_bake() {
    a_bake_exists || ctr_run --rm $busybox "$NAME-bake" true
    wait_until 180 a_bake_exists
}

# Usage: is_image_restored IMAGE OPTION...
is_image_restored() {
    ctr_run --rm "${@:2}" "$1" "$NAME-image-$(date +%s%N)" true
    [ "$(last_start_mode)" = 'restored(image)' ]
}

# Usage: require_image_bake IMAGE [OPTION...]: makes sure that its next start is restored from a bake of its own.
require_image_bake() {
    wait_until 240 is_image_restored "$@"
}

# Usage: remove_bakes MIB: those for machines with so much memory, from which none runs.
remove_bakes() {
    local key
    for key in $(bake_keys warm "$1") $(bake_keys image "$1") $(bake_keys base "$1"); do
        supermachine rm "$key"
    done
}

# Usage: vmm_tests FILTER: those of the VMM's own tests whose names match, which
# drive a VMM process without containerd; at least one must.
vmm_tests() {
    SUPERMACHINE_VMM=/opt/supermachine/bin/supermachine-vmm \
        /job/bin/vmm-tests --ignored --nocapture --test-threads=1 "$1" | tee vmm-tests.log || return 1
    ! grep -q '^running 0 tests' vmm-tests.log || fail "no test of the VMM is called $1"
}

# Usage: container_tests FILTER: those of the agent's tests with containers whose names
# match, on the host itself, whose cgroups have every controller; at least one must.
container_tests() {
    /job/bin/container-tests "$1" | tee container-tests.log
    ! grep -q '^containers: \(skipped\|0 passed\)' container-tests.log || fail "no test of containers is called $1"
}

# Usage: vmm_round_trip VCPUS ROUNDS: captures and restores a busy guest, again
# and again; every loop on every vCPU must go on each time.
vmm_round_trip() {
    VCPUS=$1 ROUNDS=$2 vmm_tests a_busy_guest_goes_on
}

# Usage: at_most_twice COMMAND...: what this emulated processor fails once in some hundred times may be tried again.
at_most_twice() {
    if ! "$@"; then
        echo 'once more, for a processor that may have mixed up what it was doing'
        "$@"
    fi
}

# Usage: descriptors PID / memory_kib PID
descriptors() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
memory_kib() { awk '/^VmRSS/ { print $2 }' "/proc/$1/status"; }

# What must not grow with what was run and is over: mounts, cgroups, files of containers that run.
host_things() {
    wc -l </proc/self/mounts
    find /sys/fs/cgroup -type d | wc -l
    find /run/containerd /run/supermachine | wc -l
}

# Usage: repeat COUNT FIRST PID: `once NUMBER`, COUNT times after FIRST times that
# fill caches and pools. What `things` lists must be the same before and after, and
# the process must not have grown by more than 4 MiB.
repeat() {
    local before now number
    for number in $(seq "$2"); do once "$number"; done
    things >before
    before=$(memory_kib "$3")
    for number in $(seq "$1"); do once "$number"; done
    things_are_back() { things >after && cmp -s before after; }
    wait_until 20 things_are_back
    now=$(memory_kib "$3")
    [ "$now" -le $((before + 4096)) ] || fail "process $3 grew from $before to $now KiB"
}

# Usage: repeat_execs COUNT: nothing is left of as many execs, in the shim, the VMM,
# the guest or on the host.
repeat_execs() {
    local shim vmm
    once() { expect_status $(($1 % 2)) ctr tasks exec --exec-id "e$1" "$NAME" sh -c "exit $(($1 % 2))"; }
    things() {
        descriptors "$shim"
        descriptors "$vmm"
        ls "/proc/$vmm/task" | wc -l
        ctr tasks exec --exec-id look "$NAME" sh -c 'ls -d /proc/[0-9]* | wc -l; ls /proc/1/fd | wc -l'
        host_things
    }
    ctr_run --detach --null-io $busybox "$NAME" sleep 100000
    shim=$(shim_pid "$NAME") vmm=$(vmm_pid "$NAME")
    repeat "$1" 20 "$shim"
    ctr tasks delete --force "$NAME"
    ctr containers delete "$NAME"
}

# Usage: repeat_starts COUNT: nothing is left of as many containers, on the host, in
# containerd or in the daemon.
repeat_starts() {
    local daemon
    once() { expect_status $(($1 % 2)) ctr_run --rm $busybox "$NAME-$1" sh -c "exit $(($1 % 2))"; }
    things() {
        descriptors "$daemon"
        host_things
    }
    require_bake
    daemon=$(systemctl show --property MainPID --value supermachine-snapshotter)
    repeat "$1" 5 "$daemon"
}

# What the shim logged about the starts since the scenario began, one per line.
start_lines() {
    journalctl --no-pager --output=cat --unit=containerd --since="@$started_at" | grep -F 'spawn_to_answer_us' || true
}

# How the last of them started: `cold` or `restored(LEVEL)`.
last_start_mode() {
    start_lines | tail -n 1 | sed -E 's/.*mode="?([^" ]+)"?.*/\1/'
}

# A trace of the commands is what a failing scenario is read by. It has a
# descriptor of its own, since the standard error of commands is looked at.
exec 9>&2
BASH_XTRACEFD=9
set -x
