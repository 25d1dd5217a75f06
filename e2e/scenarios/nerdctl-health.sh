# A container's health is found out by its command, and shown, as with runc. What nerdctl
# has systemd do at intervals is done by hand here, where no D-Bus runs; nerdctl doesn't
# start such a container without.
# limit: 300
# Usage: start_checked OPTION...
start_checked() {
    nerdctl create "${flags[@]}" --name "$NAME" "$@" --health-interval 1h busybox sleep 1000 >&2
    ctr tasks start --detach --null-io "$(nerdctl inspect --format '{{.Id}}' "$NAME")"
}
health() { nerdctl inspect --format '{{.State.Health.Status}} {{.State.Health.FailingStreak}}' "$NAME"; }
checked() {
    start_checked --health-cmd 'cat /well' --health-retries 2
    for _ in 1 2; do
        nerdctl container healthcheck "$NAME"
        health
    done
    nerdctl exec "$NAME" sh -c 'echo well >/well'
    nerdctl container healthcheck "$NAME"
    health
    nerdctl inspect --format '{{range .State.Health.Log}}{{.ExitCode}} {{.Output}};{{end}}' "$NAME"
    nerdctl rm --force "$NAME" >&2
    # One that takes too long.
    start_checked --health-cmd 'sleep 1000' --health-timeout 2s
    nerdctl container healthcheck "$NAME"
    health
    nerdctl rm --force "$NAME" >&2
}
same_as_runc checked
