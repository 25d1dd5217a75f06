# A container that is created first and started later, restarted and renamed, as with runc.
# limit: 240
look() { nerdctl inspect --format '{{.Name}} {{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{gt .State.Pid 0}}' "$1"; }
lived() {
    nerdctl create "${flags[@]}" --name "$NAME" busybox sh -c 'echo run >>/runs; exec sleep 1000' >&2
    look "$NAME"
    nerdctl start "$NAME"
    wait_until 30 nerdctl exec "$NAME" test -e /runs
    nerdctl restart --time 0 "$NAME"
    look "$NAME"
    nerdctl rename "$NAME" "$NAME-new"
    ran_twice() { [ "$(nerdctl exec "$NAME-new" cat /runs | wc -l)" = 2 ]; }
    wait_until 30 ran_twice
    look "$NAME-new"
    expect_fail nerdctl inspect "$NAME"
    nerdctl rm "$NAME-new" 2>&1 || true
    nerdctl rm --force "$NAME-new"
}
same_as_runc lived
