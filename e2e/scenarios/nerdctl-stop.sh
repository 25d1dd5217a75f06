# The ways in which nerdctl ends a container, and what it says about it before and after, as with runc.
# limit: 300
look() {
    nerdctl inspect --format '{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}} {{.State.Error}} {{gt .State.Pid 0}} {{.RestartCount}}' "$NAME"
    nerdctl ps --all --filter "name=$NAME" --format '{{.Names}} {{.Status}}' | sed -E 's/[0-9]+ (second|minute)s?|Less than a second/TIME/'
}
# Usage: start_one COMMAND: a container that runs it, and has reached its `touch /run/ready`.
start_one() {
    nerdctl run "${flags[@]}" --detach --name "$NAME" --tmpfs /run busybox sh -c "$1" >&2
    is_ready() { nerdctl exec "$NAME" test -e /run/ready; }
    wait_until 30 is_ready
}
handles='trap "exit 7" TERM; trap "exit 8" HUP; touch /run/ready; while :; do sleep 0.1; done'
ignores='trap "" TERM; touch /run/ready; while :; do sleep 0.1; done'

ended() {
    start_one "$handles"
    look
    nerdctl stop "$NAME"
    look
    nerdctl stop "$NAME"
    nerdctl kill "$NAME" 2>&1 || true
    nerdctl start "$NAME"
    wait_until 30 is_ready
    nerdctl stop --signal HUP "$NAME"
    look
    nerdctl rm "$NAME"

    start_one "$ignores"
    nerdctl stop --time 1 "$NAME"
    look
    nerdctl rm "$NAME"
}
same_as_runc ended

killed() {
    start_one "$handles"
    nerdctl kill --signal HUP "$NAME"
    nerdctl wait "$NAME"
    nerdctl start "$NAME"
    wait_until 30 is_ready
    nerdctl kill "$NAME"
    nerdctl wait "$NAME"
    look
    nerdctl rm "$NAME"
}
same_as_runc killed
