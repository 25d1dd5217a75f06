# Containers that run at the same time are apart: each has its own output and status.
run() { ctr_run --rm $busybox "$NAME-$1" sh -c "echo $1 >/tmp/mine; sleep 1; cat /tmp/mine; exit $1" >"$1"; }
run 3 & first=$!
run 4 & second=$!
status=0; wait $first || status=$?
assert_eq 3 $status 'status of the first'
status=0; wait $second || status=$?
assert_eq 4 $status 'status of the second'
assert_eq '3 4' "$(cat 3 4 | xargs)" 'outputs'
