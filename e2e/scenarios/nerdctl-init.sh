# nerdctl's --init puts a small program of the host before the command, and --device
# gives one of the host's devices, as with runc.
# limit: 240
cat >starter <<'SCRIPT'
#!/bin/sh
shift
"$@"
echo "ended with $?"
exit 3
SCRIPT
chmod +x starter
first() {
    local status=0
    # The host's needs libraries, which busybox hasn't.
    nerdctl run "${flags[@]}" --rm --name "$NAME" --init debian sh -c 'tr "\0" " " </proc/1/cmdline; exit 2' || echo "status $?"
    nerdctl run "${flags[@]}" --rm --name "$NAME" --init-binary "$PWD/starter" busybox sh -c 'tr "\0" " " </proc/1/cmdline; ls -l /sbin/starter | cut -c1-10; exit 2' || status=$?
    echo "status $status"
}
same_as_runc first

device() {
    nerdctl run "${flags[@]}" --rm --device /dev/null:/dev/nothing busybox sh -c 'ls -l /dev/nothing | cut -c1-36; echo gone >/dev/nothing; cat /dev/nothing; echo $?'
    nerdctl run "${flags[@]}" --rm --device /dev/zero:/dev/zeros:r busybox sh -c 'head -c 3 /dev/zeros | od -An -tx1; echo refused >/dev/zeros'
}
same_as_runc device
