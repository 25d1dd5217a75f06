# Without KVM a start fails and says so, and what to do about it.
mv /dev/kvm kvm
trap 'mv kvm /dev/kvm' EXIT
expect_fail ctr_run --rm $busybox "$NAME" true
assert_contains "$output" /dev/kvm
assert_contains "$output" modprobe
# A node without a driver behind it is no KVM either.
mknod /dev/kvm c 10 250
expect_fail ctr_run --rm $busybox "$NAME" true
rm /dev/kvm
assert_contains "$output" "/dev/kvm can't be opened"
