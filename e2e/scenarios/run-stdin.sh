# What goes into the standard input comes out of the output, to the last byte, and
# its end reaches the process.
head -c 300000 /dev/urandom | base64 >sent
nerdctl_run --rm -i busybox cat <sent >received
cmp sent received || fail "sent and received differ"
