# A host directory can't be shared with a VM yet: refused by name, with what is possible.
mkdir data
expect_fail ctr_run --rm --mount "type=bind,src=$PWD/data,dst=/data,options=rbind:rw" $busybox "$NAME" true
assert_contains "$output" "$PWD/data"
assert_contains "$output" 'only regular files'
