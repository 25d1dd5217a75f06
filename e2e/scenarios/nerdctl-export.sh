# limit: 400
# An export has what the container has written, while it runs, while it is paused and when
# it has stopped, as with runc.
listing() {
    nerdctl export "$NAME" | tar --numeric-owner -tv | sed -E 's/ [0-9-]{10} [0-9:]{5} / /' | sort
}
exported() {
    nerdctl run --detach "${flags[@]}" --name "$NAME" busybox sh -c 'trap "exit 0" TERM; sleep 1000 & wait' >&2
    nerdctl exec "$NAME" sh -c 'mkdir /new; echo one >/new/file; ln -s file /new/link; rm /etc/group; chmod 600 /etc/passwd'
    listing
    nerdctl exec "$NAME" sh -c 'echo three >>/new/file; rm /new/link'
    nerdctl pause "$NAME" >&2
    listing
    nerdctl unpause "$NAME" >&2
    nerdctl exec "$NAME" sh -c 'mv /new/file /new/moved'
    nerdctl stop "$NAME" >&2
    nerdctl export "$NAME" | tar -xO new/moved
    listing
    nerdctl rm "$NAME" >&2
}
same_as_runc exported

# Nothing is copied again as long as nothing is written.
copies() { log_lines supermachine-snapshotter | grep -c 'a running container has written' || true; }
nerdctl_run --detach --name "$NAME" busybox sleep 1000
nerdctl export "$NAME" >once.tar
before=$(copies)
nerdctl export "$NAME" | cmp - once.tar
assert_eq "$before" "$(copies)"
nerdctl exec "$NAME" touch /new
nerdctl export "$NAME" | tar -t new
assert_eq $((before + 1)) "$(copies)"
nerdctl rm --force "$NAME"
