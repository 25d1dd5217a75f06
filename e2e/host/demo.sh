# The demonstration, inside the emulated host. Fails when anything that it shows
# isn't so.
set -euo pipefail

image=debian
ours=(--net none --snapshotter supermachine --runtime io.containerd.supermachine.v2)
. "$(dirname "$0")/readiness.sh"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
fail() {
    printf '\nFAILED: %s\n\ncontainerd said:\n' "$*"
    journalctl --no-pager --output=cat --unit=containerd | tail -n 15
    exit 1
}

# Usage: timed COMMAND...; prints its output, sets $output and $first_byte_ms.
timed() {
    show "$@"
    local start=$EPOCHREALTIME moment=/run/first-byte
    rm -f $moment
    "$@" </dev/null | {
        IFS= read -r -d '' -n 1 byte || true
        echo "$EPOCHREALTIME" >$moment
        printf '%s' "$byte"
        cat
    } >/run/output || fail "exit status ${PIPESTATUS[0]} from: $*"
    output=$(cat /run/output)
    printf '%s\n' "$output" | head -n 3
    local end
    end=$(cat $moment)
    first_byte_ms=$(((${end/./} - ${start/./}) / 1000))
}

# Usage: read_start_line; sets $mode, $reason and $answer_ms from the shim's newest line.
read_start_line() {
    local line
    line=$(journalctl --no-pager --output=cat --unit=containerd | grep -F spawn_to_answer_us | tail -n 1) ||
        fail "the shim logged no start"
    mode=$(sed -E 's/.*mode="?([^" ]+)"?.*/\1/' <<<"$line")
    answer_ms=$(sed -E 's/.*spawn_to_answer_us=([0-9]+).*/\1/' <<<"$line" |
        awk '{ printf "%.1f", $1 / 1000 }')
}

assert_is_debian() { grep -q '^ID=debian' <<<"$output" || fail "this isn't /etc/os-release: $output"; }

say "runc, on the host"
timed nerdctl run --rm --net none $image cat /etc/os-release
assert_is_debian
runc_ms=$first_byte_ms

say "The image's layers become squashfs files (once per image)"
SECONDS=0
unpack docker.io/library/$image:latest
echo "after $SECONDS s"

say "Cold: no bake exists, so the microVM boots"
timed nerdctl run --rm "${ours[@]}" $image cat /etc/os-release
assert_is_debian
read_start_line
[ "$mode" = cold ] || fail "expected a cold start, got $mode"
cold_ms=$first_byte_ms cold_answer_ms=$answer_ms cold_mode=$mode

say "The daemon makes bakes of machine and image in the background"
SECONDS=0
wait_for_bakes 1
echo "ready after $SECONDS s"

say "Restored: the same command again"
timed nerdctl run --rm "${ours[@]}" $image cat /etc/os-release
assert_is_debian
read_start_line
[ "$mode" = 'restored(image)' ] || fail "expected a start from the image's bake, got $mode"
restored_ms=$first_byte_ms restored_answer_ms=$answer_ms restored_mode=$mode

say "Interactive"
show nerdctl run --rm -it "${ours[@]}" $image sh
status=0
printf 'echo the answer is $((6 * 7)) on $(tty)\nuname -r\nexit 7\n' |
    script -qec "nerdctl run --rm -it ${ours[*]} $image sh" /dev/null >/run/output || status=$?
tr -d '\r' </run/output
grep -q 'the answer is 42 on /dev/' /run/output || fail "the terminal did not answer"
[ $status = 7 ] || fail "expected the shell's status 7, got $status"

say "Exec into a running one"
show nerdctl run -d --name demo "${ours[@]}" $image sleep infinity
nerdctl run -d --name demo "${ours[@]}" $image sleep infinity || fail "the container did not start"
show nerdctl exec demo sh -c 'tr "\0" " " </proc/1/cmdline'
executed=$(nerdctl exec demo sh -c 'tr "\0" " " </proc/1/cmdline') || fail "exec failed"
echo "$executed"
[ "$executed" = 'sleep infinity ' ] || fail "the exec saw another container: $executed"
nerdctl rm -f demo >/dev/null || fail "cannot remove the container"

say "A failing command's exit code"
show nerdctl run --rm "${ours[@]}" $image sh -c "'exit 42'"
status=0
nerdctl run --rm "${ours[@]}" $image sh -c 'exit 42' || status=$?
echo "exit code $status"
[ $status = 42 ] || fail "expected exit code 42, got $status"

say "In this host VM"
row='%-10s %28s %30s   %s\n'
printf "$row" '' 'command to first output byte' "VMM spawn to agent's answer" 'started'
printf "$row" runc "$runc_ms ms" - 'a process on the host'
printf "$row" cold "$cold_ms ms" "$cold_answer_ms ms" "$cold_mode"
printf "$row" restored "$restored_ms ms" "$restored_answer_ms ms" "$restored_mode"
