# limit: 240
# 20 MiB through standard input and back come out exact, and so do 8 MiB that a
# process leaves behind as it ends. Without a log, for the reason in run-stdin.
head -c 20971520 /dev/urandom >sent
nerdctl_run --rm -i --log-driver none busybox cat <sent >received
cmp sent received || fail "sent and received differ"

burst='yes 0123456789abcdef | head -c 8388608; exit 5'
status=0
nerdctl_run --rm --log-driver none busybox sh -c "$burst" >received || status=$?
assert_eq 5 $status 'exit status'
sh -c "${burst%;*}" | cmp - received || fail "the burst differs"
