# limit: 400
# Of twenty containers that end at once none loses its output, status or events.
watch_events
for number in $(seq 20); do
    expect_status $((number % 3)) ctr_run --rm $busybox "$NAME-$number" sh -c "echo $number; exit $((number % 3))"
    assert_eq "$number" "$output" 'output'
done
for number in $(seq 20); do
    wait_until 5 saw_events "$NAME-$number" create start exit delete
done
