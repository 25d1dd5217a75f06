# A container uses the devices that it was given, in the ways that it was given them,
# and none that it makes for itself; as under runc.
#
# Left out: /dev/core, which is there if the kernel has /proc/kcore; the guest's has not.
# limit: 300
look='for node in /dev/* /given; do [ -c "$node" ] && [ "$node" != /dev/console ] && [ "$node" != /dev/core ] || continue
    stat -c "%n %a %t,%T" "$node"; true <"$node" && echo readable; true >>"$node" && echo writable; done 2>&1
mknod /disk b 254 0; mknod /kmsg c 1 11; for node in /disk /kmsg; do true <$node; done 2>&1
true'
for options in '' '--device /dev/kmsg:/given:r' '--device /dev/kmsg:/given:rw' '--cap-drop MKNOD'; do
    # shellcheck disable=SC2086 # options are words
    nerdctl run --rm --net none $options $busybox sh -c "$look" >theirs
    # shellcheck disable=SC2086
    nerdctl_run --rm $options $busybox sh -c "$look" >ours
    diff theirs ours || fail "what devices can be used for differs (< runc, > ours) with: $options"
done
