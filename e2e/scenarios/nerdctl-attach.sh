# A terminal is left with the detach keys and taken again, with the container living on,
# and standard input arrives in it, as with runc.
# limit: 240

# Usage: open_screen COMMAND: runs it on a terminal, where what is written to descriptor 7
# is typed; what it shows is in `screen`.
open_screen() {
    rm -f keys
    mkfifo keys
    script -qec "$1" /dev/null <keys >screen 2>&1 &
    screen=$!
    exec 7>keys
}
shows() { wait_until 30 grep -q "$1" screen; }
# Usage: close_screen: prints the status of what ran there.
close_screen() {
    local status=0
    wait $screen || status=$?
    exec 7>&-
    echo "status $status"
}
# An answer to what was typed shows that the terminal is raw, so that keys after it are nerdctl's.
ask() {
    echo "echo \$(($1 + 1))" >&7
    shows "^$(($1 + 1))"
    echo "answered $1"
}
lives() { nerdctl inspect --format '{{.State.Status}}' "$NAME"; }

keys() {
    open_screen "nerdctl run ${flags[*]} -it --name $NAME busybox sh"
    ask 10
    printf '\x10\x11' >&7
    close_screen
    lives
    open_screen "nerdctl attach --detach-keys ctrl-a,z $NAME"
    ask 20
    printf '\x01z' >&7
    close_screen
    lives
    open_screen "nerdctl attach $NAME"
    echo 'tty; exit 5' >&7
    shows /dev/pts/0
    close_screen
    nerdctl wait "$NAME"
    lives
    nerdctl rm "$NAME"
}
same_as_runc keys

# Without a terminal: a container that was created is started with its output here, and
# what it is told by a signal to nerdctl reaches it. nerdctl passes signals on only some time
# after the start, and one that comes before ends it: a signal it survives is sent first.
plain() {
    nerdctl create "${flags[@]}" --name "$NAME" busybox sh -c 'trap "echo told; trap : WINCH" WINCH; trap "echo bye; exit 6" TERM; while :; do sleep 0.1; done' >&2
    nerdctl start --attach "$NAME" >heard &
    attached=$!
    tells() { kill -WINCH $attached && grep -q told heard; }
    wait_until 30 tells
    kill -TERM $attached
    status=0
    wait $attached || status=$?
    echo "status $status"
    cat heard
    nerdctl rm "$NAME"
}
same_as_runc plain
