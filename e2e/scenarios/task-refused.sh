# A process that can't be is an error in runc's words, for a container and for an exec,
# at once, and nothing is left of it.
# limit: 240
ours="--snapshotter $snapshotter --runtime $runtime"
make='cd /tmp; echo "#!/bin/sh" >unreadable; echo odd >odd; printf "#!/no/such\n" >no-shell; chmod 711 odd no-shell; exec sleep 1000'
# Usage: refusals OPTION...: what is said to execs of what isn't a program, and to containers.
refusals() {
    ctr run --detach --null-io "$@" $busybox "$NAME" sh -c "$make" >&2
    wait_until 20 ctr tasks exec --exec-id made "$NAME" test -x /tmp/no-shell
    for command in /etc /etc/passwd/x /no/such no-such /tmp/unreadable; do
        expect_fail ctr tasks exec --exec-id refused "$NAME" $command
        echo "exec: ${output##*exec: }"
    done
    for command in /tmp/odd /tmp/no-shell; do
        # runc finds out when its own process can't speak for itself any more, and has the error come as output.
        expect_fail ctr tasks exec --exec-id refused "$NAME" $command
        echo "exec /tmp${output##*exec /tmp}"
    done
    for cwd in /etc/passwd /no/such; do
        expect_fail ctr tasks exec --exec-id refused --cwd $cwd "$NAME" true
        echo "in $cwd: ${output##*: }"
    done
    for options in '--cwd relative' '--user no-such' '--user 0:no-such'; do
        # shellcheck disable=SC2086 # an option and its value
        expect_fail ctr tasks exec --exec-id refused $options "$NAME" true
    done
    # Nothing runs but the container's own process, and the id of the exec is free.
    ctr tasks ps "$NAME" | wc -l
    ctr tasks exec --exec-id refused "$NAME" ps -o args
    ctr tasks delete --force "$NAME" >&2
    ctr containers delete "$NAME"
    for command in /etc /etc/passwd /etc/passwd/x; do
        expect_fail ctr run --rm "$@" $busybox "$NAME" $command
        echo "run: ${output##*exec: }"
    done
    for options in '--cwd relative' '--cwd /etc/passwd'; do
        # shellcheck disable=SC2086 # an option and its value
        expect_fail ctr run --rm "$@" $options $busybox "$NAME" true
    done
}
refusals >theirs
# shellcheck disable=SC2086 # options are words
refusals $ours >ours
diff theirs ours || fail 'what is refused is refused differently (< runc, > ours)'
