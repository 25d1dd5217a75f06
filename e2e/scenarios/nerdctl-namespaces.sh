# Another container's namespaces can't be entered from a VM: refused with what to leave
# out, and nothing is left of the attempt. What is the host's under runc is the VM's
# here, so that nothing of the host is seen; a directory for shared memory is shared
# like any other.
# limit: 240
nerdctl_run --detach --name "$NAME-other" busybox sleep 1000
id=$(nerdctl inspect --format '{{.Id}}' "$NAME-other")
expect_fail nerdctl_run --name "$NAME" --pid "container:$NAME-other" busybox true
assert_contains "$output" "pid namespace /proc/$(vmm_pid "$id")/ns/pid"
assert_contains "$output" --pid
nerdctl rm --force "$NAME"
expect_fail ctr_run --rm --with-ns "ipc:/proc/$(vmm_pid "$id")/ns/ipc" $busybox "$NAME" true
assert_contains "$output" 'ipc namespace'
nerdctl rm --force "$NAME-other"
# nerdctl brings the host's message queues along, which this one hasn't got.
expect_fail nerdctl_run --name "$NAME" --ipc host busybox true
assert_contains "$output" 'cannot share /dev/mqueue'
nerdctl rm --force "$NAME"
nerdctl_run --rm --name "$NAME" --ipc shareable busybox sh -c 'echo shared >/dev/shm/file && grep -q shared /dev/shm/file'

seen=$(nerdctl_run --rm --pid host --cgroupns host busybox sh -c 'cat /proc/[0-9]*/comm || true')
assert_contains "$seen" kthreadd
case $seen in *containerd* | *systemd*) fail "sees processes of the host: $seen" ;; esac

# Without a network, nerdctl names the host whose name it was told to leave: neither allows it.
named() {
    expect_fail nerdctl run "${flags[@]}" --name "$NAME" --uts host busybox true
    assert_contains "${output,,}" 'uts namespace'
    nerdctl rm --force "$NAME"
}
same_as_runc named
