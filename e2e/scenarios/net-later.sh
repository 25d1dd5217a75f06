# Interfaces, addresses and routes that come to a container's network namespace while it runs appear in it,
# and vanish with what was there: as under runc, whose processes are in that namespace.
# limit: 300
ip link add "$NAME-br" type bridge
ip address add 192.0.2.1/24 dev "$NAME-br"
ip link set "$NAME-br" up
# Usage: plug NAMESPACE INTERFACE ADDRESS MAC
plug() {
    ip link add "nl-${1##*-}-$2" type veth peer name "$2" netns "$1" address "$4"
    ip link set "nl-${1##*-}-$2" master "$NAME-br" up
    ip -n "$1" link set "$2" mtu 1400 up
    ip -n "$1" address add "$3" dev "$2"
}
inside() { ctr tasks exec --exec-id "look$RANDOM" "$1" sh -c "$2"; }
# What a container shows, without what differs from one to the other.
look() {
    inside "$1" 'for interface in $(ls /sys/class/net | grep "^[en]"); do
            ip -o link show dev $interface | sed -E "s/^[0-9]+: //; s/@if[0-9]+//; s/link-netnsid [0-9]+//; s/: <[^>]*/: /; s/qdisc .* link/link/; s/ *group .*//"
            ip -4 -o address show dev $interface | sed -E "s/^[0-9]+: //"
            ip -6 -o address show dev $interface scope global | sed -E "s/^[0-9]+: //; s/ (nodad|flags [0-9]+) / /"
        done
        ip route; ip -6 route | grep -v -e ^ff00 -e ^fe80 | sed -E "s/ (pref|expires) [a-z0-9]+//g"'
}
is_same() { diff <(look "$NAME-runc") <(look "$NAME-ours"); }

for runtime_of in runc ours; do
    id=$NAME-$runtime_of
    ip netns add "$id"
    ip -n "$id" link set lo up
    case $runtime_of in runc) run=(ctr run) ;; ours) run=(ctr_run) ;; esac
    "${run[@]}" --detach --null-io --with-ns "network:/run/netns/$id" $busybox "$id" sleep 10000
done
assert_eq '' "$(inside "$NAME-ours" 'ls /sys/class/net | grep ^e || true')" 'interfaces at first'
both() { for namespace in "$NAME-runc" "$NAME-ours"; do ip -n "$namespace" "$@"; done; }
# The addresses and MACs are the same, so that one namespace at a time is connected to the bridge.
plug "$NAME-runc" eth0 192.0.2.9/24 02:00:00:00:02:09
ip link set nl-runc-eth0 nomaster
plug "$NAME-ours" eth0 192.0.2.9/24 02:00:00:00:02:09
both route add default via 192.0.2.1
wait_until 20 is_same
inside "$NAME-ours" 'ping -c 1 -W 5 192.0.2.1' || fail 'the gateway is not reached'

# A second one; addresses and routes come and go.
for namespace in "$NAME-runc" "$NAME-ours"; do
    ip -n "$namespace" link add eth1 address 02:00:00:00:02:0a type veth peer name far1
    ip -n "$namespace" link set far1 netns 1
    ip link set far1 name "${namespace#"$NAME"-}-far1"
    ip -n "$namespace" link set eth1 up
done
both address add 198.51.100.5/24 dev eth1
both address add fd00:77::5/64 dev eth1 nodad
both route add 203.0.113.0/24 via 198.51.100.1 metric 7
wait_until 20 is_same
assert_contains "$(look "$NAME-ours")" 'via 198.51.100.1 dev eth1  metric 7'
both route del 203.0.113.0/24
both address del fd00:77::5/64 dev eth1
both link set eth1 mtu 1280
both address add 192.0.2.19/24 dev eth0
both address del 192.0.2.9/24 dev eth0
wait_until 20 is_same
assert_contains "$(look "$NAME-ours")" 'mtu 1280'

# It is taken away, and another comes.
both link delete eth1
wait_until 20 is_same
assert_eq eth0 "$(inside "$NAME-ours" 'ls /sys/class/net | grep ^e')" 'interfaces left'
both link delete eth0
wait_until 20 is_same
plug "$NAME-runc" net7 192.0.2.29/24 02:00:00:00:02:1d
ip link set nl-runc-net7 nomaster
plug "$NAME-ours" net7 192.0.2.29/24 02:00:00:00:02:1d
wait_until 20 is_same
inside "$NAME-ours" 'ping -c 1 -W 5 192.0.2.1' || fail 'nothing is reached through the later interface'

# More than there are cards: said in the log, and the others go on.
for number in 1 2 3 4; do ip -n "$NAME-ours" link add "v$number" type veth peer name "w$number"; done
for number in 1 2 3 4; do ip -n "$NAME-ours" link set "v$number" up; done
says_so() { log_lines containerd | grep -q 'connect the container to fewer networks'; }
wait_until 20 says_so
inside "$NAME-ours" 'ping -c 1 -W 5 192.0.2.1'

for id in "$NAME-runc" "$NAME-ours"; do
    ctr tasks delete --force "$id" || true
    ctr containers delete "$id"
    ip netns delete "$id"
done
ip link delete "$NAME-br"
