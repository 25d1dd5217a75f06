# What is copied into a container that doesn't run is there when it starts, as with runc,
# whoever had written or removed the file before; and what it has written can be copied
# out. While it runs its files are the VM's: nerdctl can't reach
# them then, and says that it can't, and `exec` with tar does.
# limit: 600
mkdir -p tree/below
echo one >tree/one
echo two >tree/below/two
ln -s one tree/link
before() {
    nerdctl create "${flags[@]}" --name "$NAME" busybox sh -c 'cd /root/tree && ls -lnR | grep -v ^total | cut -c1-10 && cat one below/two link' >&2
    # nerdctl takes the default snapshotter here, whatever the container's is.
    nerdctl --snapshotter "${flags[3]:-overlayfs}" cp tree "$NAME:/root/"
    nerdctl --snapshotter "${flags[3]:-overlayfs}" cp "$NAME:/root/tree/below/two" back
    cat back
    nerdctl start --attach "$NAME"
    nerdctl rm "$NAME" >&2
}
same_as_runc before

between() {
    local cp="nerdctl --snapshotter ${flags[3]:-overlayfs} cp"
    nerdctl create "${flags[@]}" --name "$NAME" busybox sh -c 'exec 2>&1; cat /count /etc/group; ls -ln /data; echo run >>/count
        mkdir -p /data; echo container >/data/mine; chmod 640 /data/mine; echo container >/data/theirs; rm -f /etc/group' >&2
    nerdctl start --attach "$NAME" 2>&1
    # What it has written comes out.
    $cp "$NAME:/data/mine" out
    cat out
    nerdctl start --attach "$NAME" 2>&1 | sed -E 's/[A-Z][a-z]{2} +[0-9]+ [0-9:]{5}//'
    # What it has written is changed, and what it has removed is there again.
    echo host >copied
    $cp copied "$NAME:/data/theirs"
    $cp /etc/hostname "$NAME:/etc/group"
    nerdctl start --attach "$NAME" 2>&1 | sed -E 's/[A-Z][a-z]{2} +[0-9]+ [0-9:]{5}//'
    nerdctl rm "$NAME" >&2
}
same_as_runc between

# Also what the host removes, by a mount of its own, and what was written before stays.
nerdctl_run --name "$NAME" busybox sh -c 'exec 2>&1; ls /keep /drop; touch /keep /drop; setfattr -n user.x -v y /keep 2>/dev/null; true'
id=$(nerdctl inspect --format '{{.Id}}' "$NAME")
mkdir mnt
eval "$(ctr snapshots --snapshotter $snapshotter mounts "$PWD/mnt" "$id")"
rm mnt/drop
umount mnt
seen=$(nerdctl start --attach "$NAME" 2>&1)
assert_contains "$seen" /keep
assert_contains "$seen" 'ls: /drop: No such file'
nerdctl rm "$NAME"

nerdctl_run --detach --name "$NAME" busybox sh -c 'echo inside >/inside; sleep 1000'
expect_fail nerdctl cp tree/one "$NAME:/"
assert_contains "$output" 'read-only'
expect_fail nerdctl cp tree/one "$NAME:/etc/one"
expect_fail nerdctl cp "$NAME:/inside" back
tar -c tree | nerdctl exec -i "$NAME" tar -x -C /etc
assert_eq two "$(nerdctl exec "$NAME" cat /etc/tree/below/two)"
assert_eq inside "$(nerdctl exec "$NAME" tar -c -C / inside | tar -xO)"
nerdctl rm --force "$NAME"
# nerdctl leaves the FIFOs of an attached start that isn't the container's first, with every runtime.
find /run/containerd/fifo -mindepth 1 -delete
