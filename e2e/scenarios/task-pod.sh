# limit: 240
# The containers of a pod share a virtual machine: they see the namespaces that their
# specs name, each other's processes where they share them, and nothing else of each
# other. Each writes to a disk of its own, which is free when it has ended, while the
# others go on. The machine ends with the last of them.
group=io.kubernetes.cri.sandbox-id
pod() { ctr_run --annotation $group="$NAME" "$@"; }
inside() { ctr tasks exec --exec-id "look$RANDOM" "$@"; }
watch_events

pod --detach --null-io --hostname the-pod $busybox "$NAME" sleep 1000
vmm=$(vmm_pid "$NAME") shim=$(shim_pid "$NAME")
shared=(--with-ns "ipc:/proc/$vmm/ns/ipc" --with-ns "uts:/proc/$vmm/ns/uts" --with-ns "network:/proc/$vmm/ns/net")
pod --detach --null-io "${shared[@]}" --with-ns "pid:/proc/$vmm/ns/pid" $debian "$NAME-a" sleep 1000
assert_eq "$vmm" "$(vmm_pid "$NAME-a")" 'the VMM of the second container'
assert_eq 1 "$(pgrep -cf "containerd-shim-supermachine-v2 .*-id $NAME")" shims
assert_eq 1 "$(start_lines | wc -l)" 'starts of a VM'

# What they share.
for kind in ipc uts net pid; do
    assert_eq "$(inside "$NAME" readlink /proc/self/ns/$kind)" "$(inside "$NAME-a" readlink /proc/self/ns/$kind)" $kind
done
assert_eq the-pod "$(inside "$NAME-a" hostname)"
assert_eq 'sleep sleep' "$(inside "$NAME-a" sh -c 'cat /proc/[0-9]*/comm' | grep -x sleep | xargs)" 'processes'
# What each has for itself: image, mounts, what it writes.
[ "$(inside "$NAME" readlink /proc/self/ns/mnt)" != "$(inside "$NAME-a" readlink /proc/self/ns/mnt)" ] || fail 'mounts are shared'
inside "$NAME" sh -c 'echo first >/mark'
inside "$NAME-a" sh -c 'echo second >/mark'
assert_eq first "$(inside "$NAME" cat /mark)"
assert_eq second "$(inside "$NAME-a" cat /mark)"
inside "$NAME-a" test -e /etc/debian_version

# One without shared namespaces is alone among them; so are its processes.
pod --detach --null-io $busybox "$NAME-b" sleep 1000
for kind in ipc uts pid net; do
    [ "$(inside "$NAME" readlink /proc/self/ns/$kind)" != "$(inside "$NAME-b" readlink /proc/self/ns/$kind)" ] || fail "$kind is shared"
done
assert_eq sleep "$(inside "$NAME-b" sh -c 'cat /proc/[0-9]*/comm' | grep -x sleep | xargs)" 'processes of the third'
# Now there are two whose process ids could be meant, and a foreign network.
expect_fail pod --rm --with-ns "pid:/proc/$vmm/ns/pid" $busybox "$NAME-c" true
assert_contains "$output" 'share process ids in the whole pod'
expect_fail pod --rm --with-ns "network:/proc/1/ns/net" $busybox "$NAME-c" true
assert_contains "$output" 'network namespace /proc/1/ns/net'
expect_fail pod --rm --with-ns "ipc:/proc/1/ns/ipc" $busybox "$NAME-c" true
assert_contains "$output" 'ipc namespace /proc/1/ns/ipc'

# Exit codes, output and signals are each one's own.
assert_eq hello "$(pod --rm "${shared[@]}" $busybox "$NAME-c" echo hello)"
expect_status 7 pod --rm $busybox "$NAME-d" sh -c 'exit 7'
ctr tasks kill --signal KILL "$NAME-b"
wait_until 20 task_is STOPPED "$NAME-b"
task_is RUNNING "$NAME-a" || fail "$NAME-a has ended as well"
expect_task_exit 137 "$NAME-b"
told_of_its_end() { case $(task_events "$NAME-b") in *' exit delete') ;; *) false ;; esac }
wait_until 5 told_of_its_end
# It can be started again, on the disk that it had, while the others run.
ctr tasks start --detach --null-io "$NAME-b"
assert_eq "$vmm" "$(vmm_pid "$NAME-b")" 'the VMM of the restarted container'
# And again and again, in the places that others have left.
for turn in $(seq 12); do pod --rm $busybox "$NAME-turn$turn" sh -c "[ ! -e /mark ] && echo $turn >/mark"; done
files=$(readlink "/proc/$vmm/fd/"* | grep -c upper.ext4)
assert_eq 3 "$files" 'disks that the VMM has'

# The first may end before the others, whose VM goes on.
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
assert_eq sleep "$(inside "$NAME-b" cat /proc/1/comm)"
expect_fail pod --rm --with-ns "ipc:/proc/$vmm/ns/ipc" $busybox "$NAME-c" true
assert_contains "$output" 'has ended'
# Its process ids were shared by the second, which ended with it.
wait_until 20 task_is STOPPED "$NAME-a"
expect_task_exit 137 "$NAME-a"
ctr containers delete "$NAME-a"
ctr tasks kill --signal KILL "$NAME-b"
wait_until 20 is_gone "$vmm"
expect_task_exit 137 "$NAME-b"
ctr containers delete "$NAME-b"
wait_until 10 is_gone "$shim"

# A crash ends all of them, and each is told of.
pod --detach --null-io $busybox "$NAME-e" sleep 1000
pod --detach --null-io $busybox "$NAME-f" sleep 1000
kill -KILL "$(vmm_pid "$NAME-e")"
for name in "$NAME-e" "$NAME-f"; do
    wait_until 5 task_is STOPPED "$name"
    expect_task_exit 137 "$name"
    ctr containers delete "$name"
done

# So does their shim's, which leaves nothing, not even of a first that was deleted before.
pod --detach --null-io $busybox "$NAME-g" sleep 1000
pod --detach --null-io $busybox "$NAME-h" sleep 1000
vmm=$(vmm_pid "$NAME-h") shim=$(shim_pid "$NAME-g")
ctr tasks kill --signal KILL "$NAME-g"
wait_until 20 task_is STOPPED "$NAME-g"
expect_task_exit 137 "$NAME-g"
ctr containers delete "$NAME-g"
test -d "/sys/fs/cgroup/default/$NAME-g" || fail "the VMM's cgroup is gone: $(cat "/proc/$vmm/cgroup")"
kill -KILL "$shim"
wait_until 10 is_gone "$vmm"
no_task() { ! ctr tasks list | grep -q "^$NAME-h "; }
wait_until 10 no_task
ctr containers delete "$NAME-h"
no_cgroup() { [ ! -e "/sys/fs/cgroup/default/$NAME-g" ]; }
wait_until 5 no_cgroup
