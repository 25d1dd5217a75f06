# A command that the image doesn't have is an error that names it, in the words and
# at the moment of runc: no task is made. An exec of one leaves its container running.
for command in /no/such/command no-such-command; do
    expect_fail ctr run --rm $busybox "$NAME-runc" $command
    theirs=${output##*exec: }
    expect_fail ctr_run --rm $busybox "$NAME" $command
    assert_contains "$output" "exec: "
    assert_eq "$theirs" "${output##*exec: }" 'what is said of it'
done
expect_fail nerdctl_run --detach --name "$NAME" busybox no-such-command
assert_contains "$output" no-such-command
assert_contains "$(nerdctl ps --all --filter "name=$NAME" --format '{{.Status}}')" Created
nerdctl rm "$NAME"

ctr_run --detach $busybox "$NAME" sleep 1000
expect_fail ctr tasks exec --exec-id missing "$NAME" no-such-command
assert_contains "$output" 'exec: "no-such-command": executable file not found'
task_is RUNNING "$NAME" || fail "the container ended with its exec"
ctr tasks delete --force "$NAME"
ctr containers delete "$NAME"
