# A container on several networks has an interface for each, with the addresses, MTU and routes that a
# process under runc has, and is reached through each. More than a machine has cards are refused.
# limit: 400
for number in 1 2 3 4 5; do nerdctl network create --subnet "10.8$number.0.0/24" "$NAME-$number"; done
# CNI's firewall plugin makes a chain when it first runs, and fails when it does so for two networks at once.
nerdctl run --rm --net "$NAME-1" busybox true
networks() { for number in "$@"; do printf -- '--net %s ' "$NAME-$number"; done; }
look() {
    nerdctl run "${flags[@]}" $(networks 1 2 3) --rm busybox sh -c '
        for interface in eth0 eth1 eth2; do
            ip -o link show dev $interface | sed -E "s/^[0-9]+: //; s/@if[0-9]+//; s/link-netnsid [0-9]+//; s/(eth[0-9]: <)[^>]*/\1/; s/qdisc .*//"
            ip -4 -o address show dev $interface | sed -E "s/^[0-9]+: //; s/(10\.8[0-9]\.0\.)[0-9]+/\1N/"
        done
        ip route | sed -E "s/src (10\.8[0-9]\.0\.)[0-9]+/src \1N/" | sort
        ls /sys/class/net | grep -v -e tunl -e sit -e gre -e erspan -e vti -e ip6
        for number in 1 2 3; do ping -c 1 -W 5 10.8$number.0.1 | grep -o "1 packets received"; done'
}
flags=()
look >theirs
flags=(--snapshotter $snapshotter --runtime $runtime)
look >ours
diff theirs ours || fail 'the interfaces differ (< runc, > ours)'

nerdctl run "${flags[@]}" $(networks 1 2 3 4) --detach --name "$NAME" busybox sh -c '
    mkdir /www; echo on every network >/www/index.html; httpd -f -h /www'
fetch() { busybox wget -q -T 5 -O - "http://$1/"; }
for number in 1 2 3 4; do
    address=$(nerdctl exec "$NAME" ip -4 -o address show dev eth$((number - 1)) | sed -E 's/.*inet ([0-9.]+).*/\1/')
    assert_contains "$address" "10.8$number.0."
    wait_until 20 fetch "$address"
    assert_eq 'on every network' "$(fetch "$address")" "network $number"
done
nerdctl rm --force "$NAME"

expect_fail nerdctl run "${flags[@]}" $(networks 1 2 3 4 5) --name "$NAME" busybox true
assert_contains "$output" 'has 5 interfaces'
assert_contains "$output" 'fewer networks'
nerdctl rm --force "$NAME"
for number in 1 2 3 4 5; do nerdctl network rm "$NAME-$number"; done
