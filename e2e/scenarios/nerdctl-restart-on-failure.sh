# containerd's restart monitor starts a container that failed as often as its policy
# says and no more, as with runc.
# limit: 300
status() { nerdctl inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}' "$NAME"; }
on_failure() {
    nerdctl run "${flags[@]}" --detach --name "$NAME" --restart on-failure:1 busybox sh -c 'echo run; exit 4' >&2
    ran_twice() { [ "$(status)" = 'exited 4 1' ]; }
    wait_until 60 ran_twice
    # The monitor looks every 10 seconds, and leaves it alone now.
    sleep 12
    status
    nerdctl logs "$NAME"
    nerdctl rm "$NAME"
}
same_as_runc on_failure
