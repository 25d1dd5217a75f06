# A container's life under nerdctl: logs, exec with and without a terminal, stop, start, rm.
nerdctl_run --detach --name "$NAME" --hostname inside busybox sh -c 'trap "echo bye; exit 0" TERM; echo hello; while :; do sleep 0.1; done'
said() { [ "$(nerdctl logs "$NAME")" = "$1" ]; }
wait_until 20 said hello
assert_eq inside "$(nerdctl exec "$NAME" hostname)"
# nerdctl says an exec's status and ends with 1.
expect_fail nerdctl exec "$NAME" sh -c 'exit 9'
assert_contains "$output" 'exit code 9'
typed=$(printf 'tty\nexit 7\n' | script -qc "nerdctl exec -it $NAME sh" /dev/null)
assert_contains "$typed" 'exit code 7'
assert_contains "$typed" /dev/
# nerdctl stop: SIGTERM, which this shell handles.
nerdctl stop "$NAME"
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" 'Exited (0)'
wait_until 20 said "$(printf 'hello\nbye')"
nerdctl start "$NAME"
wait_until 20 said "$(printf 'hello\nbye\nhello')"
nerdctl rm --force "$NAME"
