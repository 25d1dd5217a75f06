# A command that the image doesn't have is an error that names it.
expect_fail ctr_run --rm $busybox "$NAME" /no/such/command
assert_contains "$output" /no/such/command
ctr containers delete "$NAME" 2>/dev/null || true
