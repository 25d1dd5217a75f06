# What a container has said, nerdctl repeats as with runc: both streams apart, the last
# lines, since when, with the time of each; and it follows until the container ends.
# limit: 240
talk='for n in 1 2 3 4 5; do echo "out $n"; echo "err $n" >&2; done'
apart() { "$@" >stdout 2>stderr && cat stdout && echo -- && cat stderr; }
said() {
    nerdctl run "${flags[@]}" --detach --name "$NAME" busybox sh -c "$talk; exit 3" >&2
    nerdctl wait "$NAME"
    apart nerdctl logs "$NAME"
    apart nerdctl logs --since 1h "$NAME"
    apart nerdctl logs --until 1h "$NAME"
    nerdctl logs --timestamps "$NAME" 2>&1 | sort -k 2
    nerdctl logs --tail 4 "$NAME" 2>&1 | wc -l
    nerdctl rm "$NAME" >&2
}
same_as_runc said

followed() {
    nerdctl run "${flags[@]}" --detach --name "$NAME" busybox sh -c 'for n in 1 2 3 4 5; do echo "line $n"; sleep 1; done; printf "no newline"' >&2
    nerdctl logs --follow "$NAME"
    echo
    nerdctl logs --follow --tail 2 "$NAME"
    nerdctl rm --force "$NAME" >&2
}
same_as_runc followed

# The log elsewhere, and none.
elsewhere() {
    rm -f log
    nerdctl run "${flags[@]}" --detach --name "$NAME" --log-opt "log-path=$PWD/log" busybox sh -c "$talk" >&2
    nerdctl wait "$NAME"
    jq -j '"\(.stream) \(.log)"' log | sort
    nerdctl rm "$NAME" >&2
    nerdctl run "${flags[@]}" --rm --log-driver none busybox sh -c "$talk" 2>/dev/null
}
same_as_runc elsewhere
