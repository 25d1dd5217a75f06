# What goes into the standard input comes out of the output, to the last byte, and
# its end reaches the process.
#
# Without a log: nerdctl's log writer stops at the exit, and nerdctl hangs on what is
# left for it, under runc as well.
head -c 300000 /dev/urandom | base64 >sent
nerdctl_run --rm -i --log-driver none busybox cat <sent >received
cmp sent received || fail "sent and received differ"
