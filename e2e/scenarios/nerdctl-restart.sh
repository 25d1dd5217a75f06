# What a container has written is there when it is started again, also after SIGKILL;
# and containerd's restart monitor starts one that ended by itself.
nerdctl_run --detach --name "$NAME" busybox sleep 1000
nerdctl exec "$NAME" sh -c 'echo written >/file'
nerdctl kill "$NAME"
nerdctl start "$NAME"
assert_eq written "$(nerdctl exec "$NAME" cat /file)"
nerdctl rm --force "$NAME"

nerdctl_run --detach --name "$NAME-always" --restart always busybox \
    sh -c 'echo run >>/runs; [ "$(wc -l </runs)" -gt 1 ] || exit 5; exec sleep 1000'
runs_again() { nerdctl exec "$NAME-always" sh -c '[ "$(wc -l </runs)" -gt 1 ]'; }
wait_until 60 runs_again
nerdctl rm --force "$NAME-always"
