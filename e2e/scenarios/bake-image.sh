# limit: 300
# After the first container of an image its bake is made in the background, over the base bake. Whatever later containers
# of the image run, and as whom, they are restored from it; containers of other images aren't. A damaged one costs a start
# from the base bake, which says so, and is made again.
shape=(--annotation io.supermachine.config.vm.memory=136M)
run() { ctr_run --rm "${shape[@]}" "$@"; }

supermachine bake --memory 136M
assert_eq one "$(run $debian "$NAME-1" echo one)"
assert_eq 'restored(base)' "$(last_start_mode)"
# The layer may have been read for another machine's bake.
[[ $(last_start_reason) =~ \;\ (the\ layer\ .*\ wasn\'t\ read\ yet|no\ bake\ of\ this\ image\ yet) ]] || fail "$(last_start_reason)"
wait_until 120 bakes_exist 1 image 136
key=$(bake_keys image 136)

assert_eq two "$(run $debian "$NAME-2" echo two)"
assert_eq 'restored(image)' "$(last_start_mode)"
assert_eq "bake $key" "$(last_start_reason)"
run --env A=B --user 1000:1000 --cwd /tmp --hostname other --read-only --mount type=tmpfs,dst=/mnt --memory-limit 67108864 \
    $debian "$NAME-3" sh -c 'echo $A $(id -u) $(pwd) $(hostname); grep " /mnt " /proc/mounts' >other
assert_contains "$(cat other)" 'B 1000 /tmp'
assert_contains "$(cat other)" '/mnt tmpfs rw'
assert_eq 'restored(image)' "$(last_start_mode)"

# What a base of the usual size holds, and what an image's bake holds beyond one.
takes() { supermachine inspect "$1" --json | jq .disk_bytes; }
base=$(supermachine bake --json | jq -r .key)
# 24 MiB, and what one boot differs from another.
[ "$(takes "$base")" -le $(((24 << 20) + (256 << 10))) ] || fail "the base takes $(takes "$base") bytes of the disk"
[ "$(takes "$key")" -le $((32 << 20)) ] || fail "it takes $(takes "$key") bytes of the disk"
assert_contains "$(supermachine inspect "${key:0:16}")" 'level          image'

# What is written stays in one container.
run $debian "$NAME-5" sh -c 'rm /bin/true /usr/bin/true; echo gone >/etc/os-release'
run $debian "$NAME-6" true
assert_contains "$(run $debian "$NAME-7" cat /etc/os-release)" Debian

printf '\377\377\377\377' | dd of="$bakes/$key/memory" bs=1 seek=8192 conv=notrunc status=none
assert_eq three "$(run $debian "$NAME-8" echo three)"
assert_eq 'restored(base)' "$(last_start_mode)"
assert_contains "$(last_start_reason)" "bake $key is corrupt: the digest of the file \`memory\` does not match the manifest; removed"
wait_until 120 bakes_exist 1 image 136
assert_eq four "$(run $debian "$NAME-9" echo four)"
assert_eq 'restored(image)' "$(last_start_mode)"

# One that is made over a base that is no more is no good.
supermachine rm "$(bake_keys base 136)"
supermachine bake --memory 136M
assert_eq five "$(run $debian "$NAME-10" echo five)"
assert_eq 'restored(base)' "$(last_start_mode)"
assert_contains "$(last_start_reason)" 'the bake that it differs from was made anew; removed'
run $busybox "$NAME-11" true
assert_eq 'restored(base)' "$(last_start_mode)"
wait_until 120 bakes_exist 2 image 136
remove_bakes 136
