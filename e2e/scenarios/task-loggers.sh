# Output goes where the task's URIs say: appended to a file, or into a logging program,
# to the last byte. A program that ends early takes nothing along, and no stdio at all
# is fine as well.
burst='yes 0123456789abcdef | head -c 4194304; exit 5'
sh -c "${burst%;*}" >expected

expect_status 5 ctr_run --rm --log-uri "file://$PWD/logs/a%20file" $busybox "$NAME" sh -c "$burst"
cmp 'logs/a file' expected || fail 'the file differs'
expect_status 6 ctr_run --rm --log-uri "file://$PWD/logs/a%20file" $busybox "$NAME" sh -c 'printf error >&2; exit 6'
echo -n error | cat expected - | cmp - 'logs/a file' || fail 'a file that was there is not what it was, and the error'

# The program is slower than its container, whose output and error come on descriptors of their own.
cat >logger <<'LOGGER'
#!/bin/sh
exec 5>&-
sleep 1
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID $*" >"$2.whose"
cat <&4 >"$2.err" &
cat <&3 >"$2.out"
wait
LOGGER
chmod +x logger
expect_status 5 ctr_run --rm --log-uri "binary://$PWD/logger?to=$PWD/taken" $busybox "$NAME" sh -c "echo error >&2; $burst"
assert_eq "default/$NAME to $PWD/taken" "$(cat taken.whose)"
cmp expected taken.out || fail 'the program was given another output'
assert_eq error "$(cat taken.err)"

# One that takes a line and ends: the task goes on to its own status, and takes execs.
printf '#!/bin/sh\nexec 5>&-\nread -r line <&3\necho "$line" >"$2"\n' >brief
chmod +x brief
ctr_run --detach --log-uri "binary://$PWD/brief?to=$PWD/line" $busybox "$NAME" \
    sh -c 'trap "exit 23" TERM; yes | head -c 1048576; echo over >/tmp/over; while :; do sleep 0.1; done'
wait_until 20 sh -c "ctr tasks exec --exec-id over\$(date +%s%N) $NAME test -e /tmp/over"
assert_eq y "$(cat line)"
ctr tasks kill --signal TERM "$NAME"
wait_until 10 task_is STOPPED "$NAME"
expect_task_exit 23 "$NAME"
ctr containers delete "$NAME"

# One that isn't there is an error that names it, and makes no task.
expect_fail ctr_run --rm --log-uri "binary://$PWD/missing" $busybox "$NAME" true
assert_contains "$output" "$PWD/missing"

expect_status 7 ctr_run --rm --null-io $busybox "$NAME" sh -c 'yes | head -c 1048576; exit 7'
