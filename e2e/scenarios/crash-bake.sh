# limit: 300
# Cold starts of one shape and image ask for its bakes once. When a builder's VMM is killed, or the whole daemon, no part of
# a bake stays, and the next start asks again.
count() { log_lines supermachine-snapshotter | grep -c "$1" || true; }
builder() { pgrep --parent "$(systemctl show --property MainPID --value supermachine-snapshotter)" supermachine-vm; }
has_logged() { [ "$(count "$1")" = "$2" ]; }
rm -rf $bakes/*
ctr_run --rm $busybox "$NAME-1" true & run=$!
wait_until 60 builder >/dev/null
kill -KILL "$(builder)"
wait $run
wait_until 30 has_logged 'baking failed' 1
assert_eq '' "$(find $bakes -name memory)" 'left by the killed builder'

ctr_run --rm $busybox "$NAME-2" true & run=$!
wait_until 60 builder >/dev/null
vmm=$(builder)
assert_eq cold "$(last_start_mode)"
kill -KILL "$(systemctl show --property MainPID --value supermachine-snapshotter)"
wait_until 10 is_gone "$vmm"
# The successor sweeps when it starts.
nothing_left() { [ -z "$(find $bakes -name memory)" ]; }
wait_until 20 nothing_left
# Its end may need the daemon that was killed: only what it leaves counts.
wait $run || ctr containers delete "$NAME-2" 2>/dev/null || true
# It sweeps before it listens, and containerd tries again only after a while.
answers() { ctr snapshots --snapshotter $snapshotter list >/dev/null; }
wait_until 30 answers

ctr_run --rm $busybox "$NAME-3" true & ctr_run --rm $busybox "$NAME-4" true
wait $!
assert_eq 2 "$(start_lines | tail -n 2 | grep -c mode=cold)" 'cold starts at once'
wait_until 120 has_logged ' baked ' 1
assert_eq 1 "$(bake_keys image | wc -l)" "images' bakes"
assert_eq 0 "$(count 'there already')" 'bakes made in vain'

# The same of an image's bake alone.
supermachine rm "$(bake_keys image)"
failed=$(count 'baking failed')
ctr_run --rm $busybox "$NAME-5" true & run=$!
wait_until 60 builder >/dev/null
kill -KILL "$(builder)"
wait $run
assert_eq 'restored(base)' "$(last_start_mode)"
wait_until 30 has_logged 'baking failed' $((failed + 1))
assert_eq 1 "$(find $bakes -name memory | wc -l)" 'bakes left'
ctr_run --rm $busybox "$NAME-6" true
wait_until 120 bakes_exist 1 image
