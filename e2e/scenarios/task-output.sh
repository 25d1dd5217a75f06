# limit: 240
# Output survives what happens around it: each line arrives once while containerd is
# started anew, a child that keeps it open or a reader that is slow delays nobody else,
# and standard input stays open for the next who attaches.
count='i=0; while [ $i -lt 60 ]; do echo $i; i=$((i + 1)); sleep 0.05; done'
mkfifo fifo
cat fifo >from-fifo &
reader=$!
ctr_run --detach --log-uri "file://$PWD/from-file" $busybox "$NAME-file" sh -c "$count"
ctr_run --detach --log-uri "fifo://$PWD/fifo" $busybox "$NAME-fifo" sh -c "$count"
systemctl restart containerd
wait_until 60 task_is STOPPED "$NAME-file"
wait_until 60 task_is STOPPED "$NAME-fifo"
for id in "$NAME-file" "$NAME-fifo"; do
    expect_task_exit 0 "$id"
    ctr containers delete "$id"
done
wait $reader
seq 0 59 | cmp - from-file || fail 'lines of the file are missing or doubled'
seq 0 59 | cmp - from-fifo || fail 'lines of the FIFO are missing or doubled'

watch_events
ctr_run --detach --null-io $busybox "$NAME" sleep 1000
ctr tasks exec --detach --fifo-dir "$PWD" --exec-id parent "$NAME" sh -c 'sleep 1000 & exit 3'
wait_until 4 saw_events "$NAME" create start exec-added exec-started exit
assert_contains "$(grep ' /tasks/exit ' events)" '"exit_status":3'

burst='yes 0123456789abcdef | head -c 8388608'
mkfifo slow
ctr tasks exec --exec-id slow "$NAME" sh -c "$burst" >slow &
exec 7<slow
sleep 1
[ "$(ctr tasks exec --exec-id quick "$NAME" sh -c "$burst" | wc -c)" = 8388608 ] || fail 'a slow reader beside it holds it up'
sh -c "$burst" | cmp - <(cat <&7) || fail 'the slow reader was given something else'
exec 7<&-
ctr tasks delete --force "$NAME"
ctr containers delete "$NAME"

# `cat` with a standard input that its clients leave, one after the other.
mkfifo input
sleep 1000 >input &
holder=$!
ctr_run --detach $busybox "$NAME-cat" cat <input
attach() {
    echo "$1" | cat - input | ctr tasks attach "$NAME-cat" >"said-$1" &
    wait_until 20 grep -qx "$1" "said-$1"
    kill -KILL $!
}
attach one
attach two
task_is RUNNING "$NAME-cat" || fail 'it ended with its client'
kill $holder
ctr tasks delete --force "$NAME-cat"
ctr containers delete "$NAME-cat"
