# `-it` gives a terminal: a tty, its size, an echo, and the shell's status.
# nerdctl tells the size once the container has started; until then busybox prints none.
status=0
printf 'tty\nexit 7\n' | script -qec "stty rows 33 cols 101; nerdctl run --rm -it --net none --snapshotter $snapshotter --runtime $runtime busybox sh -c 'until [ -n \"\$(stty size 2>/dev/null)\" ]; do sleep 0.1; done; stty size; exec sh'" /dev/null >typed || status=$?
assert_eq 7 $status 'exit status'
text=$(tr -d '\r' <typed)
assert_contains "$text" '33 101'
assert_contains "$text" /dev/
