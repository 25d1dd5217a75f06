# Without the guest kernel's file a start fails and says which file and what to do.
kernel=/opt/supermachine/share/vmlinux
mv $kernel kernel
trap 'mv kernel $kernel' EXIT
expect_fail ctr_run --rm $busybox "$NAME" true
assert_contains "$output" $kernel
assert_contains "$output" 'make install'
