# limit: 300
# What nerdctl shows as changed is what the container has changed, as with runc; and a
# container of which nothing was asked before is not disturbed by it.
differs() {
    nerdctl run --detach "${flags[@]}" --name "$NAME" busybox sh -c 'trap "exit 0" TERM; while :; do date >/tick; sleep 0.1; done' >&2
    nerdctl exec "$NAME" sh -c 'echo >/home/new; echo changed >>/etc/passwd; rm /etc/group; rm -r /usr; mkdir /usr; until [ -e /tick ]; do :; done'
    nerdctl diff "$NAME"
    nerdctl exec "$NAME" sh -c 'rm /home/new'
    nerdctl stop "$NAME" >&2
    nerdctl diff "$NAME"
    nerdctl start "$NAME" >&2
    nerdctl exec "$NAME" sh -c 'tail -n 1 /etc/passwd; ls /usr; ls /home'
    nerdctl rm --force "$NAME" >&2
}
same_as_runc differs
