# A bundle whose root file system is an empty directory is refused with a remedy.
mkdir rootfs
expect_fail ctr_run --rm --rootfs "$PWD/rootfs" "$NAME" true
assert_contains "$output" "$PWD/rootfs"
assert_contains "$output" "--snapshotter supermachine"
