# A container with all rights reaches nothing of the host but what it was given: not by
# links, not by `..`, not from a directory that the host moves away under it. The VMM
# that serves it sees nothing else either, and only one of its threads has rights.
mkdir -p data/deep/deeper outside
echo secret >outside/secret
ln -s "$PWD/outside/secret" data/absolute
ln -s ../outside/secret data/relative
ln -s / data/root
ctr_run --detach --null-io --privileged --mount "type=bind,src=$PWD/data,dst=/data,options=rbind:rw" \
    $busybox "$NAME" sleep 1000
inside() { ctr tasks exec --exec-id "look$RANDOM" "$NAME" "$@"; }
vmm=$(vmm_pid "$NAME")

for path in /data/absolute /data/relative "/data/root$PWD/outside/secret" /data/../outside/secret; do
    expect_fail inside cat "$path"
done
inside test -e /data/root/bin/busybox
expect_fail inside ln "/data/root$PWD/outside/secret" /data/hard

# From a directory that has left.
inside sh -c 'cd /data/deep/deeper && echo ready >ready && until [ -e /data/go ]; do sleep 0.05; done
    ls ../.. ../../.. ../../../outside 2>&1; cat ../../outside/secret ../secret 2>&1' >seen &
reader=$!
wait_until 20 test -e data/deep/deeper/ready
mv data/deep/deeper outside/deeper
touch data/go
wait $reader || true
! grep -x secret seen || fail "left: $(cat seen)"
mv outside/deeper data/deep/deeper

# The guest has no name for what isn't below the volumes. Here all that it could ask for is looked up as the machine's
# own root: the file system can be mounted once more, with all that is in it.
inside sh -c 'mkdir -p /all && mount -t virtiofs volumes /all && ls -A /all /all/..' >all || true
! grep -E 'outside|etc|proc|var' <(sed -n '/^\/all:/,/^$/p' all) || fail "all: $(cat all)"

assert_eq "$NAME.0" "$(ls -A "/proc/$vmm/root" | sed 's/\.[0-9]*$/.0/')" 'what the VMM sees'
assert_eq 2 "$(wc -l <"/proc/$vmm/mountinfo")" 'mounts of the VMM'
for thread in "/proc/$vmm/task/"*; do
    rights=$(awk '/^Cap(Prm|Eff)/ { print $2 }' "$thread/status" | xargs)
    none=0000000000000000
    case $(cat "$thread/comm") in
    # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, MKNOD, SETFCAP
    files) assert_eq '00000000880000db 00000000880000db' "$rights" 'rights of the server' ;;
    *) assert_eq "$none $none" "$rights" "rights of $(cat "$thread/comm")" ;;
    esac
    assert_eq 2 "$(awk '/^Seccomp:/ { print $2 }' "$thread/status")" "filter of $(cat "$thread/comm")"
done
ctr tasks kill --signal KILL "$NAME"
wait_until 20 task_is STOPPED "$NAME"
expect_task_exit 137 "$NAME"
ctr containers delete "$NAME"
