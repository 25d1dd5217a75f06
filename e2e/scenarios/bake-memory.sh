# limit: 300
# One bake is good for machines of every size. A container may use all that its limit promises, whatever is configured, and
# is restored from the same bake as one with less.
require_image_bake $busybox
key=$(last_start_reason)
# Usage: mebibytes OPTION...: the memory that the machine of a container with these options has.
mebibytes() { ctr_run --rm "$@" $busybox "$NAME-$RANDOM" awk '/MemTotal/ { print int($2 / 1024) }' /proc/meminfo; }
# Usage: is_within VALUE LEAST MOST
is_within() { [ "$1" -ge "$2" ] && [ "$1" -le "$3" ] || fail "$1 is not within $2 and $3"; }
same_bake() {
    assert_eq 'restored(image)' "$(last_start_mode)"
    assert_eq "$key" "$(last_start_reason)"
}

is_within "$(mebibytes)" 200 256
is_within "$(mebibytes --memory-limit $((64 << 20)))" 200 256
is_within "$(mebibytes --memory-limit $((512 << 20)))" 540 768
same_bake
is_within "$(mebibytes --memory-limit $((1 << 30)))" 1060 1280
same_bake
# An annotation counts more than a limit.
is_within "$(mebibytes --memory-limit $((1 << 30)) --annotation io.supermachine.config.vm.memory=384M)" 300 384
same_bake

# All of it can be written to.
assert_eq 314572800 "$(ctr_run --rm --memory-limit $((512 << 20)) --mount type=tmpfs,src=tmpfs,dst=/fill,options=size=350m \
    $busybox "$NAME-fill" sh -c 'head -c 300m /dev/zero | tr "\0" x >/fill/file && wc -c </fill/file')"
same_bake

# What the kernel derives from its memory when it boots is no limit.
threads=$(ctr_run --rm --memory-limit $((512 << 20)) $busybox "$NAME-threads" \
    sh -c 'cat /proc/sys/kernel/threads-max; grep "Max processes" /proc/self/limits')
[[ $threads =~ ^[0-9]{6,}$'\n'Max\ processes\ +unlimited\ +unlimited ]] || fail "threads: $threads"

# The sums of a pod's limits are told with its first container.
pod=(--annotation io.kubernetes.cri.sandbox-id="$NAME" --annotation io.kubernetes.cri.sandbox-memory=$((512 << 20))
    --annotation io.kubernetes.cri.sandbox-cpu-quota=200000 --annotation io.kubernetes.cri.sandbox-cpu-period=100000)
is_within "$(mebibytes "${pod[@]}")" 540 768
same_bake
