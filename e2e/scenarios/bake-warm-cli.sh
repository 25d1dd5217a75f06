# `supermachine bake --warm` makes the bake of a container that runs, as nerdctl would start it, and says how; `--like` makes
# the one that a container's start has missed. What can't be restored as it runs is refused with the reason, and the container
# that was started to learn it is gone each time. An archive and a layout of an image are as good as the image.
# limit: 600
nginx=(nginx --cmd nginx --cmd -g --cmd 'daemon off;')
bake=(supermachine bake --memory 200M)
nothing_is_left() { assert_eq '' "$(nerdctl ps --all --quiet)" 'containers that are left'; }

made=$("${bake[@]}" "${nginx[@]}" --warm --port 80 --json)
assert_eq "$(bake_keys warm 200) false" "$(jq -r '"\(.key) \(.already_there)"' <<<"$made")"
nothing_is_left
assert_eq true "$("${bake[@]}" "${nginx[@]}" --warm --port 80 --json | jq .already_there)" 'already there then'
nothing_is_left
mapfile -t command < <(jq -r '.run[2:][]' <<<"$made")
nerdctl run --detach --name "$NAME-1" "${command[@]}"
assert_eq 'restored(warm)' "$(last_start_mode)"
expect_status 1 "${bake[@]}" "${nginx[@]}" --warm --port 80 --force
assert_contains "$output" 'is in use by'
nerdctl rm --force "$NAME-1"
expect_status 0 "${bake[@]}" "${nginx[@]}" --warm --port 80 --force
assert_contains "$output" 'waiting until its container is ready'
assert_contains "$output" 'What is restored from it: nerdctl run --snapshotter supermachine'

# What a start has missed, by whatever client; nobody makes it meanwhile.
annotations=(--annotation io.supermachine.bake=warm --annotation 'io.supermachine.bake.ready-output=up'
    --annotation io.supermachine.config.vm.memory=200M --annotation io.supermachine.bake.automatic=false)
up() { ctr_run --detach --null-io "${annotations[@]}" $busybox "$1" sh -c 'echo up; exec sleep 1000'; }
up "$NAME-2"
assert_eq 'restored(base)' "$(last_start_mode)"
made=$(supermachine bake --like "$NAME-2" --json)
assert_eq 2 "$(bake_keys warm 200 | wc -l)" 'warm bakes'
up "$NAME-3"
assert_eq "restored(warm) bake $(jq -r .key <<<"$made")" "$(last_start_mode) $(last_start_reason)"
assert_eq true "$(supermachine bake --like "$NAME-3" --json | jq .already_there)"
expect_status 1 supermachine bake --like absent
assert_contains "$output" 'no machine called `absent` runs'
for number in 2 3; do
    ctr tasks delete --force "$NAME-$number"
    ctr containers delete "$NAME-$number"
done

refused() {
    local why=$1
    shift
    expect_status 1 "${bake[@]}" --warm "$@"
    assert_contains "$output" "$why"
    nothing_is_left
}
refused "there is no such bake for this container: bake" "${nginx[@]}" --port 80 -- --volume "$PWD:/data"
assert_contains "$output" 'the container has files of the host, which may change'
refused 'nerdctl could not start a container of the image' --port 80 busybox -- --no-such-option
# 120 s would be too long: it ends before it is ready.
refused 'could not be made ready: its process exited with code 3 before it was ready; it wrote last: bye' \
    --port 80 --cmd sh --cmd -c --cmd 'echo bye; exit 3' busybox

# A container has it unpacked.
ctr_run --rm docker.io/library/python3:latest "$NAME-unpack" true
nerdctl save --output image.tar python3
mkdir layout
tar -xf image.tar -C layout
for path in ./image.tar ./layout; do
    nerdctl rmi --force python3
    by_path=$("${bake[@]}" "$path" --json | jq -r .key)
    assert_eq "$by_path true" "$("${bake[@]}" python3 --json | jq -r '"\(.key) \(.already_there)"')" "$path"
done
mkdir empty
expect_status 1 "${bake[@]}" ./empty
remove_bakes 200
