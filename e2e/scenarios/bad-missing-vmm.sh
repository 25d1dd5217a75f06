# Without the VMM's program a start fails and says which file and what to do.
vmm=/opt/supermachine/bin/supermachine-vmm
mv $vmm vmm
trap 'mv vmm $vmm' EXIT
expect_fail ctr_run --rm $busybox "$NAME" true
assert_contains "$output" $vmm
assert_contains "$output" 'make install'
