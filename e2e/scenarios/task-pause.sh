# limit: 240
# A paused container stands still and says so: its output stops, no process can be
# started in it. It goes on where it was, and can be killed while it is paused.
watch_events
nerdctl_run --detach --name "$NAME" busybox sh -c 'while :; do echo tick; sleep 0.1; done'
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
ticks() { nerdctl logs "$NAME" | wc -l; }
more_ticks_than() { [ "$(ticks)" -gt "$1" ]; }
wait_until 20 more_ticks_than 3
nerdctl pause "$NAME"
task_is PAUSED "$id" || fail "not paused: $(ctr tasks list)"
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" Paused
# What was on its way when it stopped arrives; then there is nothing for ten times the usual interval.
sleep 1
before=$(ticks)
sleep 1
assert_eq "$before" "$(ticks)" 'ticks of a paused container'
expect_fail ctr tasks exec --exec-id refused "$id" true
assert_contains "$output" 'paused'
expect_fail ctr tasks pause "$id"
assert_contains "$output" 'paused'
expect_fail ctr tasks delete "$id"
nerdctl unpause "$NAME"
task_is RUNNING "$id" || fail "not running: $(ctr tasks list)"
wait_until 20 more_ticks_than "$before"
ctr tasks exec --exec-id welcome "$id" true
expect_fail ctr tasks resume "$id"
assert_contains "$output" 'not paused'

ctr tasks pause "$id"
task_is PAUSED "$id" || fail "not paused: $(ctr tasks list)"
ctr tasks kill --signal KILL "$id"
wait_until 10 task_is STOPPED "$id"
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" 'Exited (137)'
wait_until 5 saw_events "$id" create start paused resumed exec-added exec-started exit paused exit
nerdctl rm "$NAME"

nerdctl_run --detach --name "$NAME" busybox sleep 1000
nerdctl pause "$NAME"
nerdctl rm --force "$NAME"
