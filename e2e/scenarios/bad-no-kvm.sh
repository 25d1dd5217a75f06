# Without KVM a start fails and says so.
mv /dev/kvm kvm
trap 'mv kvm /dev/kvm' EXIT
expect_fail ctr_run --rm $busybox "$NAME" true
assert_contains "$output" /dev/kvm
ctr containers delete "$NAME" 2>/dev/null || true
