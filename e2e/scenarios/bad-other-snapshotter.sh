# An image unpacked by another snapshotter has no layers for a VM: refused with the
# option to use.
expect_fail ctr run --rm --runtime $runtime $busybox "$NAME" true
assert_contains "$output" overlayfs
assert_contains "$output" "--snapshotter supermachine"
