# A container's output and exit status reach its caller; what it prints is what
# the image holds, not what the host has.
assert_eq "$(ctr_run --rm $debian "$NAME-1" cat /etc/os-release | grep '^ID=')" ID=debian
assert_eq "$(ctr_run --rm $busybox "$NAME-2" sh -c 'echo out; echo err >&2' 2>/dev/null)" out 'standard output'
assert_eq "$(ctr_run --rm $busybox "$NAME-3" sh -c 'echo out; echo err >&2' 2>&1 >/dev/null)" err 'standard error'
