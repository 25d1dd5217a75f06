# A container that asks for it is restored as it runs. It is itself all the same: name, addresses, files, output. Whatever
# would make it another program's start is a miss that says why.
# limit: 600
shape=(--annotation io.supermachine.config.vm.memory=144M)
warm=(--annotation io.supermachine.bake=warm --annotation io.supermachine.bake.ready-port=80)
run() { nerdctl_bridge --detach "${shape[@]}" "${warm[@]}" "$@"; }
nginx=(nginx nginx -g 'daemon off;')
address() { nerdctl inspect --format '{{.NetworkSettings.IPAddress}}' "$1"; }
fetch() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen("http://" + sys.argv[1], timeout=5).read().decode(), end="")' "$@"; }
served() { [[ $(fetch "$(address "$1")") = 'served by nginx'* ]]; }

supermachine bake --memory 144M
run --name "$NAME-1" "${nginx[@]}"
[[ $(last_start_reason) =~ no\ warm\ bake\ of\ this\ process\ yet ]] || fail "$(last_start_reason)"
wait_until 30 served "$NAME-1"
nerdctl rm --force "$NAME-1"
wait_until 200 bakes_exist 1 warm 144
key=$(bake_keys warm 144)

# Two of them, which share nothing that is theirs.
for number in 2 3; do
    run --name "$NAME-$number" --hostname "host-$number" --memory 100m --add-host "friend:10.0.0.$number" "${nginx[@]}"
    assert_eq 'restored(warm)' "$(last_start_mode)"
    assert_eq "bake $key" "$(last_start_reason)"
    served "$NAME-$number" || fail "nothing is served at once"
    assert_eq "host-$number" "$(nerdctl exec "$NAME-$number" hostname)"
    assert_contains "$(nerdctl exec "$NAME-$number" cat /etc/hosts)" "10.0.0.$number"
    nerdctl exec "$NAME-$number" sh -c "cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; echo $number >>/var/www/html/index.html" >"identity-$number"
done
[ "$(address "$NAME-2")" != "$(address "$NAME-3")" ] || fail 'one address for two'
assert_eq '' "$(comm -12 <(sort identity-2) <(sort identity-3))" 'what two have in common'
assert_eq 'served by nginx
3' "$(fetch "$(address "$NAME-3")")"
assert_contains "$(nerdctl exec "$NAME-2" cat /var/log/nginx/access.log)" 'GET / '
nerdctl stop "$NAME-2" "$NAME-3"
assert_eq 0 "$(nerdctl inspect --format '{{.State.ExitCode}}' "$NAME-2")"
# What was written before is no part of a bake.
nerdctl start "$NAME-2"
assert_contains "$(last_start_reason)" 'no warm bake: its writable layer has been written to before'
wait_until 30 served "$NAME-2"
nerdctl rm --force "$NAME-2" "$NAME-3"

# Every difference that a program could see is a miss.
differs() {
    run --name "$NAME-4" "$@" >/dev/null
    assert_eq 'restored(image)' "$(last_start_mode)" "$*"
    nerdctl rm --force "$NAME-4"
}
differs --env A=B "${nginx[@]}"
assert_contains "$(last_start_reason)" '; no warm bake of this process yet'
differs --user 33:33 nginx nginx -t
differs --volume "$PWD:/data:ro" "${nginx[@]}"
assert_contains "$(last_start_reason)" "; no warm bake: the container has files of the host, which may change: $PWD"
warm+=(--annotation io.supermachine.bake.ready-port=http)
differs "${nginx[@]}"
assert_contains "$(last_start_reason)" 'the annotation io.supermachine.bake.ready-port is no port'
remove_bakes 144
