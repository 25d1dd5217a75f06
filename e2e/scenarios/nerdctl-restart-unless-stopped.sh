# containerd's restart monitor starts a container that ended by itself, and not one that
# was stopped, as with runc.
# limit: 300
status() { nerdctl inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' "$NAME"; }
unless_stopped() {
    nerdctl run "${flags[@]}" --detach --name "$NAME" --restart unless-stopped busybox \
        sh -c 'echo run >>/runs; [ "$(wc -l </runs)" -gt 1 ] || exit 5; trap "exit 0" TERM; echo ready; sleep 1000 & wait' >&2
    is_ready() { nerdctl logs "$NAME" | grep -q ready; }
    wait_until 60 is_ready
    status
    nerdctl stop "$NAME"
    # The monitor looks every 10 seconds.
    sleep 12
    status
    nerdctl rm "$NAME"
}
same_as_runc unless_stopped
