# limit: 300
# `supermachine` makes a bake, lists it, keeps it while a machine runs from it and removes it afterwards. What doesn't
# fit goes with `prune`, and nothing else. `doctor` finds no problem where containers run, names the one that keeps
# them from running, and changes nothing.
require_bake
is_listed() { supermachine ls --json | jq -e --arg id "$1" 'any(.machines[]; .id == $id)' >/dev/null; }

made=$(supermachine bake --memory 160M --json)
key=$(jq -r .key <<<"$made")
assert_eq false "$(jq .already_there <<<"$made")" 'already there at first'
assert_eq true "$(supermachine bake --memory 160M --json | jq .already_there)" 'already there then'
assert_eq "$key" "$(bake_keys base 160)" 'the bake of that size'
expect_status 0 supermachine bake --memory 160M --force
assert_contains "$output" 'computing digests'
assert_contains "$output" "${key:0:12} made in"
expect_status 1 supermachine bake --memory 1M
assert_contains "$output" 'write a multiple of 2M'

# An image's, before any container of it runs on such a machine. A container has it unpacked.
ctr_run --rm docker.io/library/python3:latest "$NAME-unpack" true
made=$(supermachine bake python3 --memory 160M --json)
python=$(jq -r .key <<<"$made")
assert_eq "$python" "$(bake_keys image 160)" "the image's bake"
assert_eq true "$(supermachine bake docker.io/library/python3:latest --memory 160M --json | jq .already_there)"
ctr_run --rm --annotation io.supermachine.config.vm.memory=160M docker.io/library/python3:latest "$NAME-image" python3 -c ''
assert_eq 'restored(image)' "$(last_start_mode)"
expect_status 1 supermachine bake absent
assert_contains "$output" 'containerd has no image docker.io/library/absent:latest in the namespace default'
expect_status 1 supermachine bake python3 --namespace other
assert_contains "$output" 'nerdctl --namespace other pull --snapshotter supermachine docker.io/library/python3:latest'
supermachine rm "$python"

# One that a machine runs from stays.
ctr_run --detach --null-io --annotation io.supermachine.config.vm.memory=160M $busybox "$NAME" sleep 1000
assert_eq 'restored(base)' "$(last_start_mode)"
wait_until 10 is_listed "$NAME"
assert_contains "$(supermachine ls)" "default/$NAME"
assert_contains "$(supermachine inspect "${key:0:12}")" "in use         default/$NAME"
# Its image's bake, asked for by that start.
wait_until 120 bakes_exist 1 image 160
expect_status 1 supermachine rm "${key:0:12}"
assert_contains "$output" "is in use by default/$NAME; stop what runs from it first"
expect_status 1 supermachine bake --memory 160M --force
assert_eq 0 "$(supermachine prune --all --dry-run --json | jq --arg key "$key" '[.removed[] | select(.key == $key)] | length')"

# What fits stays, and what is damaged doesn't.
other=$(printf '0%.0s' $(seq 64))
cp -a "$bakes/$key" "$bakes/$other"
assert_contains "$(supermachine ls)" "${other:0:12}  damaged"
expect_status 1 supermachine inspect ''
assert_contains "$(supermachine prune --dry-run)" "would remove ${other:0:12}: it was made for another machine"
pruned=$(supermachine prune --json | jq -r '.removed[].key')
assert_contains "$pruned" "$other"
[[ $pruned != *"$key"* ]] || fail "pruned what fits: $pruned"
[ ! -e "$bakes/$other" ] || fail 'what was pruned is still there'
layers=$(supermachine df --json | jq '.kinds[] | select(.name == "layers") | .count')
[ "$layers" -ge 1 ] || fail "df counts $layers layers"
[ "$(supermachine df --json | jq '.disk_bytes > .reclaimable_bytes and .reclaimable_bytes >= 0')" = true ] || supermachine df

ctr tasks delete --force "$NAME"
ctr containers delete "$NAME"
is_gone_from_list() { ! is_listed "$NAME"; }
wait_until 10 is_gone_from_list
supermachine rm "$(bake_keys image 160)"
assert_contains "$(supermachine rm "$key")" "removed ${key:0:12}"
assert_eq '' "$(bake_keys base 160)$(bake_keys image 160)" 'bakes in the end'
expect_status 1 supermachine rm "$key"
expect_status 2 supermachine rm

# Looking changes nothing.
state() { find /run/supermachine $bakes -printf '%p %s %C@\n' | sort; }
state >state
expect_status 0 supermachine doctor
assert_contains "$output" 'problems: 0'
state | diff state - || fail 'doctor has changed something'
mv /usr/local/bin/containerd-shim-supermachine-v2 shim
trap 'mv shim /usr/local/bin/containerd-shim-supermachine-v2' EXIT
expect_status 1 supermachine doctor
assert_contains "$output" "containerd doesn't find containerd-shim-supermachine-v2"
mv shim /usr/local/bin/containerd-shim-supermachine-v2
mv /dev/kvm kvm
trap 'mv kvm /dev/kvm' EXIT
expect_status 1 supermachine doctor --json
assert_eq 'this host has no /dev/kvm' "$(jq -r '.findings[] | select(.check == "KVM") | .found' <<<"$output")"
mv kvm /dev/kvm
trap - EXIT

# Nobody who reads is no failure.
supermachine completions bash | true
supermachine completions bash | bash -n
supermachine man .
[ -s supermachine-doctor.1 ] || fail 'no manual page'
