# A block device of the host that a container is given is a block device there, under the path, with the size, owner,
# mode and rules that it has under runc; what is written reaches it. A file system on it is whole when the container has
# ended, however it did, and then the device is the host's again, also if the container's pod runs on. A privileged
# container, which is listed all that the host has, has those that it is given, and no other. What can't be given is
# refused by name, and nothing is left of it.
# limit: 540
group=io.kubernetes.cri.sandbox-id
head -c 8M /dev/urandom >content
cp content image
truncate -s 3M other
head -c 1M /dev/urandom >fixed
loops=()
node_is() { chown "$1" "$device" && chmod "$2" "$device"; }
trap 'node_is 0:0 600 || true; losetup --detach "${loops[@]}" 2>/dev/null || true' EXIT
# Usage: attach OPTION... FILE: its device is the last of loops.
attach() { loops+=("$(losetup --find --show "$@")"); }
attach image
attach other
attach --read-only fixed
device=${loops[0]} second=${loops[1]} read_only=${loops[2]}
node_is 1:33 640
is_detached() { [ ! -e "/sys/block/${1#/dev/}/loop/backing_file" ]; }
# Usage: has_of_host PID COUNT: the block devices of the host that a VMM has open.
has_of_host() { [ "$(find "/proc/$1/fd" -lname '/dev/loop*' -o -lname '/dev/vd*' | wc -l)" = "$2" ]; }
pid_of() { nerdctl inspect --format '{{.State.Pid}}' "$1"; }
shim_of() { awk '/^PPid:/ { print $2 }' "/proc/$1/status"; }

# What a container finds, may do and does.
try='exec 2>&1
for node in /dev/xvdc /data /dev/xvde; do
    stat -c "%n %F %a %u:%g" $node; blockdev --getsize64 $node; sha1sum $node
    dd if=/dev/zero of=$node bs=4k count=16 seek=16 conv=fsync status=none && sha1sum $node
done
blockdev --getro /dev/xvde
blkdiscard --offset 1M --length 1M /dev/xvdc; blkdiscard --zeroout --offset 3M --length 64K /dev/xvdc; sha1sum /dev/xvdc
mknod /disk b 7 6; mknod /whole b 254 16; for node in /disk /whole; do head -c 1 $node; done; true'
look() {
    dd if=content of="$device" bs=1M conv=fsync status=none
    # shellcheck disable=SC2086 # options are words
    nerdctl run "${flags[@]}" --rm --device "$device:/dev/xvdc:$1" --device "$second:/data" --device "$read_only:/dev/xvde" \
        $debian sh -c "$try"
    sha1sum <"$device"
    sha1sum <image
}
look_rw() { look rw; }
look_r() { look r; }
same_as_runc look_rw
assert_contains "$(cat ours)" '/dev/xvdc block special file 640 1:33'
assert_eq 1 "$(grep -c "$(sha1sum <content | cut -c -40)" ours)" 'what was there before'
same_as_runc look_r
assert_eq 4 "$(grep -c "$(sha1sum <content | cut -c -40)" ours)" 'what is there after nothing may be written'

# It has its own file system, and is killed with it mounted. What was flushed is on the medium before.
make='LD_LIBRARY_PATH=/host/lib/x86_64-linux-gnu /host/sbin/mke2fs -q -F -t ext4 /dev/xvdc && mount /dev/xvdc /mnt &&
    echo durable >/mnt/durable && sync /mnt/durable && touch /mnt/made && seq 100000 >/mnt/late && touch /ready && sleep 1000'
nerdctl_run --detach --name "$NAME" --privileged --device "$device:/dev/xvdc" --volume /usr:/host:ro $debian \
    sh -c "$make" >/dev/null
vmm=$(pid_of "$NAME")
wait_until 60 nerdctl exec "$NAME" test -e /ready
has_of_host "$vmm" 1 || fail "the VMM has other devices: $(ls -l "/proc/$vmm/fd")"
has_of_host "$(shim_of "$vmm")" 0 || fail 'the shim keeps a device'
grep -q durable image || fail 'what was flushed is not in the file behind the device'
nerdctl kill --signal KILL "$NAME" >/dev/null
wait_until 20 is_gone "$vmm"
nerdctl rm "$NAME" >/dev/null
mkdir mounted
mount "$device" mounted
assert_eq 'durable 100000' "$(cat mounted/durable) $(tail -n 1 mounted/late)"
test -e mounted/made
umount mounted
e2fsck -fn "$device" >check.log 2>&1 || fail "the file system is damaged: $(cat check.log)"

# Without a device that it is given, a privileged container has none; it runs as it would.
nerdctl_run --detach --name "$NAME" --privileged $busybox sleep 1000 >/dev/null
has_of_host "$(pid_of "$NAME")" 0 || fail 'a privileged container was given devices of the host'
nerdctl rm --force "$NAME" >/dev/null
# One that is named is given under the host's path as well.
assert_eq 8388608 "$(ctr_run --rm --privileged --device "$device" $busybox "$NAME" blockdev --getsize64 "$device")"
assert_eq 8388608 "$(nerdctl_run --rm --privileged --device "$device" $busybox blockdev --getsize64 "$device")"

# In a pod it comes and goes with its container: then the host, or the next container, can have it.
pod() { ctr_run --annotation $group="$NAME" "$@"; }
pod --detach --null-io $busybox "$NAME" sleep 1000
vmm=$(vmm_pid "$NAME") shim=$(shim_pid "$NAME")
idle=$(descriptors "$shim")
pod --detach --null-io --device "$second" $busybox "$NAME-a" sleep 1000
for turn in 1 2 3; do
    pod --rm --device "$device" $busybox "$NAME-$turn" sh -c "echo turn $turn | dd of=$device conv=notrunc status=none"
    assert_eq "turn $turn" "$(head -n 1 "$device")"
    has_of_host "$vmm" 1 || fail "the VMM keeps a device: $(ls -l "/proc/$vmm/fd")"
done
assert_eq "$vmm" "$(vmm_pid "$NAME-a")"
losetup --detach "$device"
wait_until 5 is_detached "$device"
assert_eq 3145728 "$(ctr tasks exec --exec-id look "$NAME-a" blockdev --getsize64 "$second")" "the neighbour's"

# Devices that aren't any, or have nothing, are refused by name; the pod is as before.
mknod ghost b 7 4000
for what in "pod --rm" "ctr_run --rm"; do
    started=$(start_lines | wc -l)
    expect_fail $what --device "$device" $busybox "$NAME-bad" true
    assert_contains "$output" "device $device: $device has 0 bytes; insert a medium, or attach"
    expect_fail $what --device "$second" --device "$PWD/ghost" $busybox "$NAME-bad" true
    assert_contains "$output" "device $PWD/ghost: the host has no block device 7:4000"
    assert_eq "$started" "$(start_lines | wc -l)" 'machines that were started'
    ctr containers delete "$NAME-bad" 2>/dev/null || true
done
has_of_host "$vmm" 1 || fail "the VMM keeps a device: $(ls -l "/proc/$vmm/fd")"
descriptors_are() { [ "$(descriptors "$1")" -le "$2" ]; }
for container in "$NAME-a" "$NAME"; do
    ctr tasks kill --signal KILL "$container"
    wait_until 20 task_is STOPPED "$container"
    expect_task_exit 137 "$container"
    ctr containers delete "$container"
    [ "$container" = "$NAME" ] || wait_until 20 descriptors_are "$shim" "$idle"
done
wait_until 20 is_gone "$vmm"

# A VMM that is killed lets go of its devices like any process.
ctr_run --detach --null-io --device "$second" $busybox "$NAME" sleep 1000
kill -KILL "$(vmm_pid "$NAME")"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
losetup --detach "$second" "$read_only"
wait_until 5 is_detached "$second"
wait_until 5 is_detached "$read_only"
