# What changes on the host is seen in the container at once, and the other way round:
# contents, new and removed files, and a link that is exchanged as Kubernetes does it
# with a Secret.
mkdir -p data/first data/second
echo first >data/first/key
echo second >data/second/key
ln -s first data/current
ln -s current/key data/key
echo 1 >data/count
ctr_run --detach --null-io --mount "type=bind,src=$PWD/data,dst=/data,options=rbind:rw" \
    --mount "type=bind,src=$PWD/data/count,dst=/count,options=bind:ro" $busybox "$NAME" sleep 1000
inside() { ctr tasks exec --exec-id "look$RANDOM" "$NAME" "$@"; }
both() { inside sh -c 'cat /data/count /count; exec 3</data/count; stat -c %s /data/count' | xargs; }

assert_eq '1 1 2' "$(both)"
for turn in 22 333 4444; do
    echo $turn >data/count
    assert_eq "$turn $turn $((${#turn} + 1))" "$(both)"
done
# The same length, within the same second.
echo 5555 >data/count
assert_eq '5555 5555 5' "$(both)"

assert_eq first "$(inside cat /data/key)"
ln -s second data/next
mv -T data/next data/current
assert_eq second "$(inside cat /data/key)"

touch data/new
assert_eq /data/new "$(inside ls /data/new)"
rm data/new
expect_fail inside ls /data/new
inside sh -c 'echo from inside >/data/inside; rm /data/first/key'
assert_eq 'from inside' "$(cat data/inside)"
[ ! -e data/first/key ] || fail 'the file is still there'

# A reader that has the file open reads on.
inside sh -c ': >/data/log; exec 3</data/log; until read -r line <&3; do sleep 0.05; done; echo "$line"' >line &
reader=$!
wait_until 20 test -e data/log
echo a line >>data/log
wait $reader
assert_eq 'a line' "$(cat line)"
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
