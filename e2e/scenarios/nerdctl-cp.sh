# What is copied into a container before its first start is there, as with runc, and so is
# what comes back. Once it runs its files are the VM's: nerdctl can't reach
# them then, and says that it can't, and `exec` with tar does.
# limit: 240
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

nerdctl_run --detach --name "$NAME" busybox sh -c 'echo inside >/inside; sleep 1000'
expect_fail nerdctl cp tree/one "$NAME:/"
assert_contains "$output" 'read-only'
expect_fail nerdctl cp tree/one "$NAME:/etc/one"
expect_fail nerdctl cp "$NAME:/inside" back
tar -c tree | nerdctl exec -i "$NAME" tar -x -C /etc
assert_eq two "$(nerdctl exec "$NAME" cat /etc/tree/below/two)"
assert_eq inside "$(nerdctl exec "$NAME" tar -c -C / inside | tar -xO)"
nerdctl rm --force "$NAME"
